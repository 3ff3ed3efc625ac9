package embed_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
)

// further is a pipeline with one more encoder, and some that cannot be used.
func further(t *testing.T) (p *embed.Pipeline, loads *atomic.Int64) {
	t.Helper()
	loads = &atomic.Int64{}
	o := options(newDetector(spot{160, 160, 100, 0.9}), newEncoder(1, 0, 0, 0))
	second := newEncoder(0, 3, 4, 0)
	o.Slots, o.Queue, o.QueueTime = 2, 100, time.Hour
	o.Load = func(id string) (embed.Network, embed.Manifest, error) {
		loads.Add(1)
		m := encoderModel()
		m.ID = id
		switch id {
		case "second":
			return second, m, nil
		case "short": // gives fewer numbers than it says
			m.Dimension = 5
			return newEncoder(1, 0, 0, 0), m, nil
		case "detector":
			return newDetector(), detectorModel(), nil
		}
		return nil, m, errors.New("no such file")
	}
	p = newPipeline(t, o)
	t.Cleanup(func() {
		if second.open != 0 {
			t.Errorf("%d sessions of a further encoder were left open", second.open)
		}
	})
	// newPipeline closes the pipeline after this cleanup; here it must be before.
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p, loads
}

func TestFurtherEncoders(t *testing.T) {
	t.Parallel()
	p, loads := further(t)
	photo := blank(t, 320, 320)
	own := encoderModel().ID
	for _, tt := range []struct {
		encoders []string
		want     []face.Embedding
	}{
		{nil, []face.Embedding{{1, 0, 0, 0}}},
		{[]string{own}, []face.Embedding{{1, 0, 0, 0}}},
		{[]string{"second"}, []face.Embedding{{0, 0.6, 0.8, 0}}},
		{[]string{"second", own}, []face.Embedding{{0, 0.6, 0.8, 0}, {1, 0, 0, 0}}},
	} {
		samples, err := p.EmbedWith(t.Context(), photo, embed.PickOnly, embed.Want{Encoders: tt.encoders})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(tt.want, samples[0].Embeddings); d != "" || !slices.Equal(samples[0].Embedding, tt.want[0]) || samples[0].Crop != nil {
			t.Errorf("%v: %s", tt.encoders, d)
		}
	}
	// Whoever comes at the same moment shares what is loaded.
	var work sync.WaitGroup
	for range 20 {
		work.Go(func() {
			if err := p.Prepare(t.Context(), "second", own); err != nil {
				t.Error(err)
			}
			if _, err := p.EmbedWith(t.Context(), photo, embed.PickOnly, embed.Want{Encoders: []string{"second"}, Crop: true}); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	if n := loads.Load(); n != 1 {
		t.Errorf("the encoder was loaded %d times", n)
	}
	for _, id := range []string{"nothing", "short", "detector"} {
		_, err := p.EmbedWith(t.Context(), photo, embed.PickOnly, embed.Want{Encoders: []string{own, id}})
		for _, err := range []error{err, p.Prepare(t.Context(), id)} {
			if !errors.Is(err, face.Unavailable) {
				t.Errorf("%s: %v, want unavailable", id, err)
			}
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Prepare(t.Context(), "another"); !errors.Is(err, face.Unavailable) || loads.Load() > 8 {
		t.Errorf("after closing: %v", err)
	}
}

func TestEmbedCrop(t *testing.T) {
	t.Parallel()
	p, _ := further(t)
	samples, err := p.EmbedWith(t.Context(), blank(t, 320, 320), embed.PickOnly, embed.Want{Crop: true})
	if err != nil {
		t.Fatal(err)
	}
	crop := samples[0].Crop
	e, err := p.EmbedCrop(t.Context(), crop, "second")
	if err != nil || !slices.Equal(e, face.Embedding{0, 0.6, 0.8, 0}) {
		t.Errorf("a crop gives %v, %v", e, err)
	}
	header := len(crop) - len(crop[bytes.Index(crop, []byte("\xff\xd8\xff")):])
	for name, bad := range map[string][]byte{
		"nothing": nil, "header": crop[:header], "half": crop[:len(crop)/2], "a photo": blank(t, 224, 224),
		"version": append([]byte{9}, crop[1:]...), "too large": slices.Concat(crop[:header], blank(t, 225, 225)),
	} {
		if _, err := p.EmbedCrop(t.Context(), bad, "second"); !errors.Is(err, face.InvalidImage) {
			t.Errorf("%s: %v, want invalid_image", name, err)
		}
	}
	if _, err := p.EmbedCrop(t.Context(), append(bytes.Clone(crop[:1]), append(make([]byte, header-1), crop[header:]...)...), "second"); !errors.Is(err, face.Internal) {
		t.Errorf("landmarks in one place: %v", err)
	}
	if _, err := p.EmbedCrop(t.Context(), crop, "nothing"); !errors.Is(err, face.Unavailable) {
		t.Errorf("another encoder: %v", err)
	}
}

// TestSlowEncoder has one encoder come slowly and another never: nobody waits
// but those who need the slow one, and they no longer than they want to; the
// one that is not there is not looked for at every request.
func TestSlowEncoder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slow, there, tries := make(chan struct{}), newEncoder(0, 1, 0, 0), 0
		o := options(newDetector(spot{160, 160, 100, 0.9}), newEncoder(1, 0, 0, 0))
		o.Load = func(id string) (embed.Network, embed.Manifest, error) {
			m := encoderModel()
			m.ID = id
			if id == "nothing" {
				tries++
				return nil, m, errors.New("no such file")
			}
			<-slow
			return there, m, nil
		}
		p := newPipeline(t, o)
		waiting := make(chan error, 1)
		go func() { waiting <- p.Prepare(t.Context(), "slow") }()
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Prepare(short, "slow"); !errors.Is(err, face.Deadline) {
			t.Errorf("after a second: %v, want deadline", err)
		}
		if _, err := p.Embed(t.Context(), blank(t, 320, 320), embed.PickOnly); err != nil {
			t.Error(err)
		}
		for _, want := range []int{1, 1, 2} {
			if err := p.Prepare(t.Context(), "nothing"); !errors.Is(err, face.Unavailable) || tries != want {
				t.Errorf("%v after %d tries, want unavailable after %d", err, tries, want)
			}
			time.Sleep(6 * time.Second) // of the bubble
		}
		close(slow)
		if err := <-waiting; err != nil {
			t.Error(err)
		}
	})
}
