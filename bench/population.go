package main

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/internal/searchload"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/likeness"
)

// mateCosine is the score of a probe with its template.
const mateCosine = 0.6

// population is a gallery of any size that needs no memory, because each
// template is computed from its number.
type population struct {
	dimension int
	seed      uint64
	real      *embedded // nil: unrelated people, at random
}

// embedded are the embeddings of real photos.
type embedded struct {
	Subjects   []string
	Embeddings []face.Embedding
}

// template returns the template of a number, with its subject. The first
// templates are those of real photos; the others are new people, as far from a
// real one as the photos of one person are from each other.
func (p population) template(i int) (subject string, e face.Embedding) {
	rng := rand.New(rand.NewPCG(p.seed, uint64(i)))
	switch {
	case p.real == nil:
		return "s" + strconv.Itoa(i), randomUnitVector(rng, p.dimension)
	case i < len(p.real.Embeddings):
		return p.real.Subjects[i], p.real.Embeddings[i]
	}
	return "c" + strconv.Itoa(i), p.moved(rng, p.real.Embeddings[i%len(p.real.Embeddings)])
}

// probe is a template, moved by mateCosine.
func (p population) probe(i int) face.Embedding {
	_, e := p.template(i)
	return p.moved(rand.New(rand.NewPCG(p.seed+1, uint64(i))), e)
}

// moved is another template, mateCosine away. Real embeddings are moved along
// the differences of real people: random directions would leave the space that
// an encoder uses, and make searching too easy.
func (p population) moved(rng *rand.Rand, e face.Embedding) face.Embedding {
	if p.real == nil {
		return searchload.Near(rng, e, mateCosine)
	}
	const mixed = 16
	way := make(face.Embedding, len(e))
	for range mixed {
		weight := float32(rng.NormFloat64())
		a, b := p.real.Embeddings[rng.IntN(len(p.real.Embeddings))], p.real.Embeddings[rng.IntN(len(p.real.Embeddings))]
		for i := range way {
			way[i] += weight * (a[i] - b[i])
		}
	}
	return searchload.Towards(e, way, mateCosine)
}

// embeddings embeds every photo of the sets with an encoder. It keeps them in a
// file for the next run.
func (b *bench) embeddings(ctx context.Context, encoder string) (*embedded, error) {
	cache := filepath.Join("out", fmt.Sprintf("bench-%s-%d.gob", encoder, b.Photos))
	if f, err := os.Open(cache); err == nil {
		defer f.Close()
		var e embedded
		return &e, gob.NewDecoder(f).Decode(&e)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	p, err := likeness.Open(ctx, likeness.Options{
		ModelsDirs: b.ModelsDir, Detector: "yunet_n", Encoder: encoder,
	})
	if err != nil {
		return nil, err
	}
	defer p.Close()
	var all embedded
	for _, name := range append([]string{b.Images}, b.MoreImages...) {
		if err := b.embedSet(ctx, p, name, &all); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if len(all.Embeddings) < 100 {
		return nil, errors.New("there are fewer than 100 usable photos")
	}
	f, err := os.Create(cache + ".part")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(gob.NewEncoder(f).Encode(all), f.Close()); err != nil {
		return nil, err
	}
	return &all, os.Rename(cache+".part", cache)
}

func (b *bench) embedSet(ctx context.Context, p *likeness.Pipeline, name string, all *embedded) error {
	set, err := photos.Open(name)
	if err != nil {
		return err
	}
	defer set.Close()
	names := set.Names()
	if b.Photos > 0 {
		names = names[:min(b.Photos, len(names))]
	}
	found := make([]face.Embedding, len(names))
	show := b.progress("embedding photos of "+filepath.Base(name), len(names))
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for i, n := range names {
		group.Go(func() error {
			photo, err := set.ReadFile(n)
			if err != nil {
				return err
			}
			defer show(1)
			samples, err := p.Embed(working, photo, embed.PickLargest)
			if err == nil {
				found[i] = samples[0].Embedding
			}
			// A photo without a usable face is left out.
			return working.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, e := range found {
		if e == nil {
			continue
		}
		who := path.Base(path.Dir(names[i])) // of LFW; elsewhere each photo is somebody
		if !strings.HasPrefix(path.Base(names[i]), who) {
			who = strings.TrimSuffix(path.Base(names[i]), path.Ext(names[i]))
		}
		all.Subjects = append(all.Subjects, who)
		all.Embeddings = append(all.Embeddings, e)
	}
	return nil
}

// progress prints the progress of a task on the terminal, in steps of a tenth.
func (b *bench) progress(what string, total int) func(int) {
	var mu sync.Mutex
	done := 0
	return func(n int) {
		mu.Lock()
		defer mu.Unlock()
		before := done
		done += n
		if before*10/total != done*10/total {
			fmt.Fprintf(os.Stderr, "bench: %s: %d of %d\n", what, done, total)
		}
	}
}
