package style_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	imagedraw "image/draw"
	"strings"
	"testing"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/style"
)

// smallTask is a small one that goes through two scales.
func smallTask(t *testing.T, change func(*style.Task)) style.Task {
	t.Helper()
	p := style.DefaultParams()
	p.Size, p.Iterations, p.Features = 192, 12, "small"
	task := style.Task{Content: drawPicture(t, "stilllife", 240), Styles: []*image.RGBA{drawPicture(t, "waves", 200)}, Params: p}
	if change != nil {
		change(&task)
	}
	return task
}

// runTask runs a task and returns its picture and its reports, without their
// functions.
func runTask(t *testing.T, e *style.Engine, task style.Task) (*image.RGBA, []style.Report) {
	t.Helper()
	var reports []style.Report
	img, err := e.Transfer(t.Context(), task, func(r style.Report) error {
		r.Checkpoint, r.Preview = nil, nil
		reports = append(reports, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return img, reports
}

// What each choice gives: a picture of the right size, in all the steps, with
// less of the loss at each scale's end.
func TestTransfer(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*style.Task){
		"defaults":  nil,
		"learned":   func(s *style.Task) { s.Params.Features = style.Learned },
		"adam":      func(s *style.Task) { s.Params.Optimizer = "adam" },
		"noise":     func(s *style.Task) { s.Params.Init = "noise" },
		"luminance": func(s *style.Task) { s.Params.PreserveColor = "luminance" },
		"histogram": func(s *style.Task) { s.Params.PreserveColor = "histogram" },
		"literal": func(s *style.Task) {
			s.Params.Weights, s.Params.ContentWeight, s.Params.StyleWeight = "literal", 1e-3, 10
		},
		"layers": func(s *style.Task) {
			s.Params.Features = style.Learned
			s.Params.Layers = style.Layers{Content: map[string]float64{"l2": 1}, Style: map[string]float64{"l1": 1, "l4": 2}}
		},
		"two styles": func(s *style.Task) {
			s.Styles, s.Params.StyleWeights = append(s.Styles, drawPicture(t, "mosaic", 150)), []float64{1, 2}
		},
		"regions": func(s *style.Task) {
			left, right := image.NewGray(image.Rect(0, 0, 40, 30)), image.NewGray(image.Rect(0, 0, 40, 30))
			paintGrey(left, image.Rect(0, 0, 15, 30))
			paintGrey(right, image.Rect(15, 0, 40, 30))
			s.Styles, s.Masks = append(s.Styles, drawPicture(t, "mosaic", 150)), []*image.Gray{left, right}
		},
		"large strokes": func(s *style.Task) { s.Params.StyleScale = 2 },
		"grey and flat": func(s *style.Task) {
			s.Params.Features, s.Content = style.Learned, image.NewRGBA(image.Rect(0, 0, 64, 64))
			paintGrey(s.Content, s.Content.Rect)
		},
		"one step": func(s *style.Task) { s.Params.Iterations = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			task := smallTask(t, change)
			img, reports := runTask(t, engine(t), task)
			b := task.Content.Rect
			if want := image.Rect(0, 0, 192, 192*b.Dy()/b.Dx()); img.Rect != want {
				t.Errorf("the picture is %v, want %v", img.Rect, want)
			}
			if !img.Opaque() {
				t.Error("the picture is not opaque")
			}
			if len(reports) != task.Params.Iterations {
				t.Errorf("%d reports for %d iterations", len(reports), task.Params.Iterations)
			}
			for i, r := range reports {
				if r.Iteration != i+1 || r.Iterations != task.Params.Iterations || r.Shrunk != 0 {
					t.Errorf("report %d: %+v", i, r)
				}
				if i > 0 && reports[i-1].Width == r.Width && r.Loss.Total > reports[i-1].Loss.Total && task.Params.Optimizer == "lbfgs" {
					t.Errorf("step %d went up, from %g to %g", i, reports[i-1].Loss.Total, r.Loss.Total)
				}
			}
			if last := reports[len(reports)-1]; last.Width != 192 || last.ETA != 0 {
				t.Errorf("the last report is %+v", last)
			}
		})
	}
}

func paintGrey(img imagedraw.Image, r image.Rectangle) {
	imagedraw.Draw(img, r, image.NewUniform(color.Gray{220}), image.Point{}, imagedraw.Src)
}

func TestSqueezeNet(t *testing.T) {
	t.Parallel()
	e := engine(t, squeezenet(t))
	task := smallTask(t, func(s *style.Task) { s.Params.Features, s.Params.Size = "squeezenet11", 96 })
	_, reports := runTask(t, e, task)
	if first, last := reports[0].Loss, reports[len(reports)-1].Loss; last.Style > first.Style/2 {
		t.Errorf("L_style fell from %g to %g only", first.Style, last.Style)
	}
	task.Params.Layers.Style = map[string]float64{"fire7/concat": 1, "fire99": 1}
	if err := e.Check(task); face.KindOf(err) != face.Invalid || !strings.Contains(err.Error(), "fire99") {
		t.Errorf("an unknown layer: %v", err)
	}
}

// A run that is resumed makes the picture of one that never stopped, bit for
// bit, from any checkpoint on.
func TestResume(t *testing.T) {
	t.Parallel()
	for _, optimizer := range []string{"lbfgs", "adam"} {
		t.Run(optimizer, func(t *testing.T) {
			t.Parallel()
			e := engine(t)
			task := smallTask(t, func(s *style.Task) { s.Params.Optimizer, s.Params.Init = optimizer, "noise" })
			var states [][]byte
			want, err := e.Transfer(t.Context(), task, func(r style.Report) error {
				state, err := r.Checkpoint()
				states = append(states, state)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, at := range []int{2, 6, 8, 10, 11} { // of twelve: 7 at the first scale
				task.Checkpoint = states[at]
				got, reports := runTask(t, e, task)
				if !bytes.Equal(got.Pix, want.Pix) {
					t.Errorf("resumed after %d steps, the picture is another", at+1)
				}
				if len(reports) != 11-at || len(reports) > 0 && reports[0].Iteration != at+2 {
					t.Errorf("resumed after %d steps: %d reports", at+1, len(reports))
				}
			}

			whole := states[5]
			torn := map[string][]byte{
				"empty": {}, "short": whole[:20], "cut": whole[:len(whole)-9], "longer": append(bytes.Clone(whole), 0),
			}
			flipped := bytes.Clone(whole)
			flipped[len(flipped)/2] ^= 4
			torn["flipped"] = flipped
			for name, state := range torn {
				task.Checkpoint = state
				if _, err := e.Transfer(t.Context(), task, nil); face.KindOf(err) != face.Invalid || !strings.Contains(err.Error(), "checkpoint") {
					t.Errorf("%s: %v", name, err)
				}
			}
			task.Checkpoint = whole
			task.Params.Seed++
			if _, err := e.Transfer(t.Context(), task, nil); face.KindOf(err) != face.Invalid || !strings.Contains(err.Error(), "another task") {
				t.Errorf("another seed: %v", err)
			}
			task.Params.Seed--
			task.Content = drawPicture(t, "stilllife", 239)
			if _, err := e.Transfer(t.Context(), task, nil); face.KindOf(err) != face.Invalid {
				t.Errorf("another picture: %v", err)
			}
		})
	}
}

func TestPreviews(t *testing.T) {
	t.Parallel()
	last := image.NewRGBA(image.Rectangle{})
	img, err := engine(t).Transfer(t.Context(), smallTask(t, nil), func(r style.Report) error {
		last = r.Preview()
		if last.Rect.Dx() != r.Width || last.Rect.Dy() != r.Height {
			return fmt.Errorf("a preview of %v, but %d by %d are said", last.Rect, r.Width, r.Height)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(last.Pix, img.Pix) {
		t.Error("the last preview is not the picture")
	}
}

func TestEnds(t *testing.T) {
	t.Parallel()
	e := engine(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := 0
	_, err := e.Transfer(ctx, smallTask(t, nil), func(style.Report) error {
		seen++
		if seen == 3 {
			cancel()
		}
		return nil
	})
	if face.KindOf(err) != face.Canceled || seen != 3 {
		t.Errorf("cancelled after 3 steps: %d reports, %v", seen, err)
	}
	if _, err := e.Transfer(ctx, smallTask(t, nil), nil); face.KindOf(err) != face.Canceled {
		t.Errorf("cancelled before it began: %v", err)
	}
	late, cancel := context.WithTimeout(t.Context(), 1)
	defer cancel()
	<-late.Done()
	if _, err := e.Transfer(late, smallTask(t, nil), nil); face.KindOf(err) != face.Deadline {
		t.Errorf("after the deadline: %v", err)
	}
	enough := errors.New("enough")
	if _, err := e.Transfer(t.Context(), smallTask(t, nil), func(style.Report) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("the observer's error: %v", err)
	}
}

// A step that is not finite is made smaller and told of; when none is finite,
// that is an error.
func TestDivergence(t *testing.T) {
	t.Parallel()
	for _, optimizer := range []string{"lbfgs", "adam"} {
		for name, tt := range map[string]struct {
			when   func(run int) bool
			shrunk int
			fails  bool
		}{
			"once":        {func(run int) bool { return run == 4 }, 1, false},
			"three times": {func(run int) bool { return run >= 3 && run < 6 }, 3, false},
			"from then":   {func(run int) bool { return run >= 4 }, 0, true},
			"always":      {func(int) bool { return true }, 0, true},
		} {
			t.Run(optimizer+" "+name, func(t *testing.T) {
				t.Parallel()
				net, _ := smallNetwork(t, 3, 2)
				e, err := style.New(style.Options{Backend: poisoned{orttest.Runtime(t), tt.when, new(int)}, Networks: []style.Network{net}})
				if err != nil {
					t.Fatal(err)
				}
				task := smallTask(t, func(s *style.Task) { s.Params.Optimizer, s.Params.Size = optimizer, 64 })
				var last style.Report
				_, err = e.Transfer(t.Context(), task, func(r style.Report) error {
					last = r
					return nil
				})
				if tt.fails {
					if face.KindOf(err) != face.Internal || !strings.Contains(err.Error(), "diverged") {
						t.Errorf("%v, want it to have diverged", err)
					}
					return
				}
				if err != nil || last.Shrunk != tt.shrunk {
					t.Errorf("%d steps shrunk, want %d; %v", last.Shrunk, tt.shrunk, err)
				}
			})
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	net, names := smallNetwork(t, 3, 2)
	e := engine(t)
	black := image.NewGray(image.Rect(0, 0, 9, 9))
	for says, change := range map[string]func(*style.Task){
		"content":           func(s *style.Task) { s.Content = nil },
		"content: there":    func(s *style.Task) { s.Content = &image.RGBA{} },
		"style: 0":          func(s *style.Task) { s.Styles = nil },
		"style: 5":          func(s *style.Task) { s.Styles = append(s.Styles, s.Styles[0], s.Styles[0], s.Styles[0], s.Styles[0]) },
		"style[0]":          func(s *style.Task) { s.Styles[0] = nil },
		"mask: 2":           func(s *style.Task) { s.Masks = []*image.Gray{black, black} },
		"mask[0]":           func(s *style.Task) { s.Masks = []*image.Gray{black} },
		"params.features":   func(s *style.Task) { s.Params.Features = "vgg99" },
		"params.iterations": func(s *style.Task) { s.Params.Iterations = 1e9 },
		"params.size: a":    func(s *style.Task) { s.Content = image.NewRGBA(image.Rect(0, 0, 900, 20)) },
		"l9": func(s *style.Task) {
			s.Params.Features, s.Params.Layers.Content = style.Learned, map[string]float64{"l9": 1}
		},
		"l1": func(s *style.Task) {
			s.Params.Features, s.Params.Layers.Style = "small", map[string]float64{names[0]: 1, "l1": 1}
		},
	} {
		task := smallTask(t, change)
		err := e.Check(task)
		if face.KindOf(err) != face.Invalid || err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
		if _, err := e.Transfer(t.Context(), task, nil); face.KindOf(err) != face.Invalid {
			t.Errorf("%s: Transfer says %v", says, err)
		}
	}
	if err := e.Check(smallTask(t, nil)); err != nil {
		t.Errorf("a good one: %v", err)
	}
	for name, networks := range map[string][]style.Network{
		"twice": {net, net}, "learned": {{ID: "learned", Read: net.Read}}, "unread": {{ID: "x"}},
	} {
		if _, err := style.New(style.Options{Networks: networks}); face.KindOf(err) != face.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A network that is no network is found when its layers are first wanted, and
// is not what is wrong with the task.
func TestBrokenNetwork(t *testing.T) {
	t.Parallel()
	gone := face.Errorf(face.NotFound, "test", "gone")
	e := engine(t,
		style.Network{ID: "torn", Read: func() ([]byte, error) { return []byte("torn"), nil }},
		style.Network{ID: "gone", Read: func() ([]byte, error) { return nil, gone }})
	for _, id := range []string{"torn", "gone"} {
		task := smallTask(t, func(s *style.Task) { s.Params.Features = id })
		if _, err := e.Transfer(t.Context(), task, nil); !errors.Is(err, face.Unavailable) || !strings.Contains(err.Error(), id) {
			t.Errorf("%s: %v", id, err)
		}
		task.Params.Layers.Style = map[string]float64{"a": 1}
		if err := e.Check(task); !errors.Is(err, face.Unavailable) {
			t.Errorf("%s: Check says %v", id, err)
		}
	}
}
