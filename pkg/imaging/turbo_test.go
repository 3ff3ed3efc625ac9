//go:build turbojpeg && cgo

package imaging_test

import (
	"errors"
	"image"
	"sync/atomic"
	"testing"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// TestTurboStops checks that libjpeg-turbo itself looks whether it is to stop,
// in a JPEG of one scan and in one of many.
func TestTurboStops(t *testing.T) {
	t.Parallel()
	for name, data := range map[string][]byte{"jpeg": asJPEG(t, scene(64, 48)), "progressive.jpg": testdata(t, "progressive.jpg")} {
		var stop atomic.Int32
		if _, err := imaging.DecodeTurbo(&stop, data, image.Pt(64, 48)); err != nil {
			t.Fatal(name, err)
		}
		stop.Store(1)
		if img, err := imaging.DecodeTurbo(&stop, data, image.Pt(64, 48)); img != nil || !errors.Is(err, imaging.ErrStopped) {
			t.Errorf("%s: %v, %v", name, img != nil, err)
		}
	}
}

// TestTurboCountsScans checks that libjpeg-turbo counts, whatever was counted
// before.
func TestTurboCountsScans(t *testing.T) {
	t.Parallel()
	var stop atomic.Int32
	if _, err := imaging.DecodeTurbo(&stop, manyScans(50, nil), image.Pt(8, 8)); err != nil {
		t.Error(err)
	}
	if _, err := imaging.DecodeTurbo(&stop, manyScans(51, nil), image.Pt(8, 8)); face.KindOf(err) != face.TooLarge {
		t.Error(err)
	}
}
