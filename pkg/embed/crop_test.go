package embed_test

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
)

// The encoders that crops are shown to: the real one, and the same network
// with frames unlike it, since what they see is what crops must keep.
const (
	encoderWide   = "wide"   // more around the face, as encoders of the FaceNet family see it
	encoderTall   = "tall"   // another template, not only another scale
	encoderTurned = "turned" // another space
)

// severalEncoders is a pipeline that loads them when they are asked for.
func severalEncoders(tb testing.TB, slots int) *embed.Pipeline {
	tb.Helper()
	detector, own := orttest.Model(tb, "yunet_n"), orttest.Model(tb, "mobileface-v2")
	network := orttest.Network(tb, own.ID)
	p, err := embed.New(embed.Options{
		Detector: orttest.Network(tb, detector.ID), DetectorModel: detector.Manifest,
		Encoder: network, EncoderModel: own.Manifest, Slots: slots, Queue: 100, QueueTime: time.Hour,
		Load: func(id string) (embed.Network, embed.Manifest, error) {
			m := own.Manifest
			m.ID, m.Alignment = id, slices.Clone(m.Alignment)
			for i, at := range m.Alignment {
				switch id {
				case encoderWide:
					m.Alignment[i] = [2]float32{(at[0]-55.5)*0.75 + 55.5, (at[1]-55.5)*0.75 + 55.5}
				case encoderTall:
					m.Alignment[i] = [2]float32{(at[0]-55.5)*0.9 + 55.5, (at[1]-55.5)*1.1 + 50}
				default:
					return nil, m, errors.New("no such file")
				}
			}
			return network, m, nil
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Error(err)
		}
	})
	return p
}

// TestCrops compares the embeddings of photos with those of their crops, for
// every encoder: a subject who comes along to another model by a crop must be
// known as if the photo had been enrolled.
func TestCrops(t *testing.T) {
	t.Parallel()
	const slots, step = 2, 66
	p := severalEncoders(t, slots)
	encoders := []string{"mobileface-v2", encoderWide, encoderTall}
	var names []string
	for i, name := range sharedtest.LFW(t).Names() {
		if i%step == 0 {
			names = append(names, name)
		}
	}
	var mu sync.Mutex
	scores, sizes := map[string][]float64{}, []int{}
	var work sync.WaitGroup
	for part := range slots {
		work.Go(func() {
			for i := part; i < len(names); i += slots {
				photo := sharedtest.Photo(t, names[i])
				samples, err := p.EmbedWith(t.Context(), photo, embed.PickLargest, embed.Want{Encoders: encoders, Crop: true})
				if errors.Is(err, face.NoFace) {
					continue
				}
				if err != nil {
					t.Errorf("%s: %v", names[i], err)
					return
				}
				if len(samples[0].Face.Quality.Reasons) > 0 {
					continue // what is not enrolled
				}
				for k, encoder := range encoders {
					again, err := p.EmbedCrop(t.Context(), samples[0].Crop, encoder)
					if err != nil {
						t.Errorf("%s: %v", names[i], err)
						return
					}
					mu.Lock()
					scores[encoder] = append(scores[encoder], again.Cosine(samples[0].Embeddings[k]))
					mu.Unlock()
				}
				mu.Lock()
				sizes = append(sizes, len(samples[0].Crop))
				mu.Unlock()
			}
		})
	}
	work.Wait()
	slices.Sort(sizes)
	if len(sizes) < 100 || sizes[len(sizes)-1] > 64<<10 {
		t.Fatalf("%d crops, the largest of %d bytes", len(sizes), sizes[len(sizes)-1])
	}
	for _, encoder := range encoders {
		list := scores[encoder]
		slices.Sort(list)
		t.Logf("%s: %d photos, cosine least %.4f, 1 %% %.4f, 5 %% %.4f, median %.4f; crops of %d bytes at the median, at most %d",
			encoder, len(list), list[0], list[len(list)/100], list[len(list)/20], list[len(list)/2], sizes[len(sizes)/2], sizes[len(sizes)-1])
		if list[0] < 0.9 || list[len(list)/20] < 0.97 || list[len(list)/2] < 0.99 {
			t.Errorf("%s does not know people by their crops", encoder)
		}
	}
}

// BenchmarkCrop makes a crop beside an embedding, and an embedding of a crop.
func BenchmarkCrop(b *testing.B) {
	p := severalEncoders(b, 1)
	photo := sharedtest.Photo(b, "lfw/Mike_Weir/Mike_Weir_0001.jpg")
	var crop []byte
	for name, want := range map[string]embed.Want{"photo": {}, "photo and crop": {Crop: true}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				samples, err := p.EmbedWith(b.Context(), photo, embed.PickLargest, want)
				if err != nil {
					b.Fatal(err)
				}
				if want.Crop {
					crop = samples[0].Crop
				}
			}
		})
	}
	b.Run("of a crop", func(b *testing.B) {
		for b.Loop() {
			if _, err := p.EmbedCrop(b.Context(), crop, "mobileface-v2"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
