package imaging_test

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/image/tiff"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// patience is a context that is canceled when it is looked at for the nth
// time, and counts on.
type patience struct {
	context.Context
	cancel context.CancelFunc
	looks  atomic.Int64
	last   int64
}

func newPatience(t *testing.T, last int64) *patience {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	return &patience{Context: ctx, cancel: cancel, last: last}
}

// Err implements [context.Context].
func (p *patience) Err() error {
	if p.looks.Add(1) >= p.last {
		p.cancel()
	}
	return p.Context.Err()
}

// TestStops cancels decoding at many places: it ends there, and says so.
func TestStops(t *testing.T) {
	t.Parallel()
	img := photo(300, 200)
	files := map[string][]byte{
		"jpeg": asJPEG(t, img), "png": asPNG(t, img), "gif": asGIF(t, 300, 200, convertImage(img, newPaletted)),
		"bmp": asBMP(t, img), "tiff": asTIFF(t, img, tiff.Deflate),
		"jpeg, turned": withSegments(asJPEG(t, img), exifSegment(orientationTag(binary.LittleEndian, 6))),
	}
	for _, name := range []string{"progressive.jpg", "cmyk.jpg", "interlaced-16.png", "lossy.webp", "lossless.webp", "alpha-lossless.webp"} {
		files[name] = testdata(t, name)
	}
	for name, data := range files {
		for _, longSide := range []int{0, 20} {
			whole := newPatience(t, 1<<62)
			if _, err := imaging.Decode(whole, data, imaging.DefaultLimits(), longSide); err != nil {
				t.Fatal(name, err)
			}
			all := whole.looks.Load()
			for _, at := range slices.Compact([]int64{1, 2, all / 4, all / 2, all - 1, all}) {
				p := newPatience(t, max(at, 1))
				got, err := imaging.Decode(p, data, imaging.DefaultLimits(), longSide)
				if got != nil || face.KindOf(err) != face.Canceled || !errors.Is(err, context.Canceled) {
					t.Errorf("%s, canceled at %d of %d: %v, %v", name, at, all, got != nil, err)
				}
				if more := p.looks.Load() - p.last; more > 4 {
					t.Errorf("%s, canceled at %d of %d: it went on for %d more", name, at, all, more)
				}
			}
		}
	}
}

// TestDeadline checks the word for it.
func TestDeadline(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	_, err := imaging.Decode(ctx, asJPEG(t, scene(64, 48)), imaging.DefaultLimits(), 0)
	if face.KindOf(err) != face.Deadline || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
