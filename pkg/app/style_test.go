package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"image"
	"image/png"
	"log/slog"
	"mime/multipart"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/internal/testfaces"
	"github.com/likeness-id/likeness/pkg/app"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/style"
)

// tracer paints the content, or the style where the seed is 1, and holds the
// first run up in its third iteration until the server stops.
type tracer struct {
	once  *sync.Once
	there chan struct{}
}

func (tracer) Check(style.Task) error { return nil }

func (p tracer) Transfer(ctx context.Context, t style.Task, observe func(style.Report) error) (*image.RGBA, error) {
	for i := len(t.Checkpoint); i < t.Params.Iterations; i++ {
		err := observe(style.Report{
			Iteration: i + 1, Iterations: t.Params.Iterations,
			Checkpoint: func() ([]byte, error) { return make([]byte, i+1), nil },
			Preview:    func() *image.RGBA { return t.Content },
		})
		if err != nil {
			return nil, err
		}
		if i == 2 {
			p.once.Do(func() { close(p.there); <-ctx.Done() })
		}
		if err := ctx.Err(); err != nil {
			return nil, face.Wrap(face.Canceled, "tracer", err)
		}
	}
	if t.Params.Seed == 1 {
		return t.Styles[0], nil
	}
	return t.Content, nil
}

func flatPNG(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, 80, 80))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestStyleJobs starts a job, stops the server in the middle of it, and has the
// next one finish it, on both stores.
func TestStyleJobs(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"sqlite", "postgres"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			o := options(t)
			if store == "postgres" {
				o.DatabaseURL, o.Migrate = pgtest.Database(t, nil), true
			}
			p := tracer{&sync.Once{}, make(chan struct{})}
			o.Transferrer = p
			ctx := context.WithoutCancel(t.Context())
			run := func(work func(url string)) {
				t.Helper()
				a, err := app.New(ctx, o, "test", slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				a.Start()
				work("http://" + a.Addr())
				http.DefaultClient.CloseIdleConnections()
				// The tracer of the first run looks at nothing: it is cut off.
				stop, cancel := context.WithCancel(ctx)
				cancel()
				_ = a.Stop(stop) // says that it was cut
			}
			photo, other := testfaces.Photo(t, 1, 1), flatPNG(t)
			submit := func(url string, content, style []byte, seed string) (path string) {
				t.Helper()
				var b bytes.Buffer
				w := multipart.NewWriter(&b)
				for name, data := range map[string][]byte{"content": content, "style": style} {
					part, err := w.CreateFormFile(name, name)
					if err == nil {
						_, err = part.Write(data)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				err := errors.Join(w.WriteField("params", `{"iterations":6,"seed":`+seed+`}`), w.WriteField("check_identity", "true"), w.Close())
				if err != nil {
					t.Fatal(err)
				}
				res, err := http.Post(url+"/style-transfer", w.FormDataContentType(), &b)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if res.StatusCode != http.StatusAccepted {
					t.Fatal(res.Status)
				}
				return res.Header.Get("Location")
			}
			// ended follows a job to its end, and says how it is then.
			ended := func(url, path string) (j struct {
				State   string
				Score   *float64 `json:"identity_score"`
				Match   *bool    `json:"identity_match"`
				Reason  string   `json:"identity_reason"`
				Picture string   `json:"identity_picture"`
			},
			) {
				t.Helper()
				for _, under := range []string{"/events", ""} {
					res, err := http.Get(url + path + under)
					if err != nil {
						t.Fatal(err)
					}
					var text bytes.Buffer
					_, err = text.ReadFrom(res.Body)
					if err := errors.Join(err, res.Body.Close()); err != nil {
						t.Fatal(err)
					}
					if under == "" {
						if err := json.Unmarshal(text.Bytes(), &j); err != nil {
							t.Fatalf("%v: %s", err, text.String())
						}
					}
				}
				return j
			}
			var first string
			run(func(url string) {
				first = submit(url, photo, other, "0")
				<-p.there
			})
			run(func(url string) {
				j := ended(url, first)
				if j.State != "succeeded" || j.Score == nil || *j.Score < 0.9 || !*j.Match {
					t.Errorf("the job that was interrupted: %+v", j)
				}
				if j := ended(url, submit(url, photo, other, "1")); j.State != "succeeded" || j.Reason != "NO_FACE" || j.Picture != "result" {
					t.Errorf("a picture without a face: %+v", j)
				}
				if j := ended(url, submit(url, other, photo, "1")); j.State != "succeeded" || j.Reason != "NO_FACE" || j.Picture != "content" {
					t.Errorf("a content without a face: %+v", j)
				}
				res, err := http.Get(url + "/metrics")
				if err != nil {
					t.Fatal(err)
				}
				var text bytes.Buffer
				_, err = text.ReadFrom(res.Body)
				if err := errors.Join(err, res.Body.Close()); err != nil || !strings.Contains(text.String(), `likeness_jobs{state="succeeded"} 3`) {
					t.Errorf("metrics: %v", err)
				}
			})
		})
	}
}
