package jobs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/jobs"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/postgres"
	"github.com/likeness-id/likeness/pkg/style"
)

const (
	tenant   = "acme"
	patience = time.Minute
)

// migrate makes a database as `server migrate` does.
func migrate(url string) error {
	_, _, err := postgres.Migrate(context.Background(), url, "")
	return err
}

// open opens the jobs of a place: a URL, or the path of a file.
func open(ctx context.Context, place string, o jobs.Options) (*jobs.Service, error) {
	if !strings.HasPrefix(place, "postgres:") {
		return jobs.OpenSQLite(ctx, place, o)
	}
	return jobs.OpenPostgres(ctx, place, "", o)
}

// places are fresh ones, of both databases.
func places() map[string]func(*testing.T) string {
	return map[string]func(*testing.T) string{
		"sqlite":   func(t *testing.T) string { t.Helper(); return filepath.Join(t.TempDir(), "jobs.db") },
		"postgres": func(t *testing.T) string { t.Helper(); return pgtest.Database(t, migrate) },
	}
}

// lines keeps what is logged.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// options are quick ones, with a walker that nobody holds up.
func options() (jobs.Options, *lines) {
	log := &lines{}
	return jobs.Options{Transferrer: walker{}, Beat: 50 * time.Millisecond, Nice: -1, Logger: slog.New(slog.NewTextHandler(log, nil))}, log
}

// openAndStart opens and starts a service, which the test's end closes.
func openAndStart(t *testing.T, place string, o jobs.Options) *jobs.Service {
	t.Helper()
	s := openUntilEnd(t, place, o)
	s.Start()
	return s
}

func openUntilEnd(t *testing.T, place string, o jobs.Options) *jobs.Service {
	t.Helper()
	s, err := open(t.Context(), place, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func picture(tone uint8, side int) []byte {
	img := image.NewRGBA(image.Rect(0, 0, side, side))
	for i := range side * side {
		img.Set(i%side, i/side, color.RGBA{R: tone, G: uint8(i), A: 255})
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func request(iterations int) jobs.Request {
	p := style.DefaultParams()
	p.Iterations = iterations
	return jobs.Request{Tenant: tenant, KeyID: "k", Content: picture(1, 40), Styles: [][]byte{picture(2, 40)}, Params: p}
}

// expectedPicture is the picture of a job that nothing interrupted.
func expectedPicture(t *testing.T, r jobs.Request) *image.RGBA {
	t.Helper()
	var task style.Task
	for i, data := range append([][]byte{r.Content}, r.Styles...) {
		img, err := png.Decode(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			task.Content = img.(*image.RGBA)
		} else {
			task.Styles = append(task.Styles, img.(*image.RGBA))
		}
	}
	task.Params = r.Params
	img, err := walker{}.Transfer(t.Context(), task, func(style.Report) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func submit(t *testing.T, s *jobs.Service, r jobs.Request) jobs.Job {
	t.Helper()
	j, err := s.Submit(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if j.State != jobs.Queued && j.State != jobs.Running {
		t.Fatalf("submitted: %+v", j)
	}
	return j
}

// await looks at a job until it is as it should be.
func await(t *testing.T, s jobs.Queue, j jobs.Job, is func(jobs.Job) bool) jobs.Job {
	t.Helper()
	deadline, tick := time.NewTimer(patience), time.NewTicker(10*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for {
		now, err := s.Job(t.Context(), j.Tenant, j.ID)
		if err == nil && is(now) {
			return now
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("it did not come to that: %+v, %v", now, err)
		}
	}
}

func awaitState(t *testing.T, s jobs.Queue, j jobs.Job, state jobs.State) jobs.Job {
	t.Helper()
	return await(t, s, j, func(j jobs.Job) bool {
		if j.State.Final() && j.State != state {
			t.Fatalf("%s, want %s: %+v", j.State, state, j.Problem)
		}
		return j.State == state
	})
}

// checkPicture wants the picture that the request makes.
func checkPicture(t *testing.T, s jobs.Queue, j jobs.Job, r jobs.Request) {
	t.Helper()
	data, err := s.Result(t.Context(), j.Tenant, j.ID)
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	want := expectedPicture(t, r)
	for y := range 64 {
		for x := range 64 {
			wr, wg, wb, wa := want.At(x, y).RGBA()
			if r, g, b, a := img.At(x, y).RGBA(); r != wr || g != wg || b != wb || a != wa {
				t.Fatalf("another picture, from %d,%d on", x, y)
			}
		}
	}
}

// gate holds runs up at an iteration until it is opened.
type gate struct {
	at      int
	reached chan string // the seeds of tasks that are there
	open    chan struct{}
}

func newGate(at int) *gate { return &gate{at, make(chan string, 1000), make(chan struct{})} }

func (g *gate) step(ctx context.Context, t style.Task, iteration int) error {
	if iteration < g.at {
		return nil
	}
	if iteration == g.at {
		g.reached <- fmt.Sprint(t.Params.Seed)
	}
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return face.Wrap(face.Canceled, "gate", ctx.Err())
	}
}

func (g *gate) wait(t *testing.T) string {
	t.Helper()
	select {
	case seed := <-g.reached:
		return seed
	case <-time.After(patience):
		t.Fatal("nobody came to the gate")
		return ""
	}
}

func TestJob(t *testing.T) {
	t.Parallel()
	for name, place := range places() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place := place(t)
			o, _ := options()
			registry, g := prometheus.NewRegistry(), newGate(7)
			o.Transferrer, o.Registerer = walker{step: g.step}, registry
			match := true
			want := jobs.Identity{Score: 0.5, Match: &match, OperatingPoint: "fmr_1e-4", ModelID: "m"}
			o.Identify = func(_ context.Context, content []byte, result *image.RGBA) (jobs.Identity, error) {
				if !bytes.Equal(content, picture(1, 40)) || result.Rect.Dx() != 64 {
					return jobs.Identity{}, errors.New("other pictures")
				}
				return want, nil
			}
			s := openAndStart(t, place, o)
			r := request(30)
			r.Styles = append(r.Styles, picture(3, 50))
			r.CheckIdentity, r.Params.Seed = true, 5
			j := submit(t, s, r)
			g.wait(t)
			if _, err := s.Result(t.Context(), tenant, j.ID); !errors.Is(err, face.NotFinished) {
				t.Errorf("the result of a running job: %v", err)
			}
			running := await(t, s, j, func(j jobs.Job) bool { return j.Iteration == 6 })
			if running.State != jobs.Running || running.Iterations != 30 || running.Loss.Style != 2.0/6 || running.Loss.Total != 1 || running.ETA != 24*time.Second ||
				running.StartedAt.IsZero() || !running.FinishedAt.IsZero() || running.Progress() != 0.2 || running.Shrunk != 1 {
				t.Errorf("running: %+v", running)
			}
			close(g.open)
			done := awaitState(t, s, j, jobs.Succeeded)
			if diff := cmp.Diff(&want, done.Identity); diff != "" {
				t.Error(diff)
			}
			if done.Iteration != 30 || done.Progress() != 1 || done.FinishedAt.Before(done.StartedAt) || done.StartedAt.Before(done.CreatedAt) ||
				time.Since(done.CreatedAt) > time.Hour || !cmp.Equal(done.Params, r.Params) {
				t.Errorf("done: %+v", done)
			}
			checkPicture(t, s, j, r)
			if n := counterValue(t, registry, "likeness_style_iterations_total"); n != 30 {
				t.Errorf("%g iterations are counted", n)
			}
			if err := testutil.GatherAndCompare(registry, strings.NewReader(`
			# HELP likeness_jobs Style-transfer jobs of all servers on the database, by state.
			# TYPE likeness_jobs gauge
			likeness_jobs{state="canceled"} 0
			likeness_jobs{state="failed"} 0
			likeness_jobs{state="queued"} 0
			likeness_jobs{state="running"} 0
			likeness_jobs{state="succeeded"} 1
		`), "likeness_jobs"); err != nil {
				t.Error(err)
			}
			// A repeated request makes no twin; one of another tenant finds nothing.
			r.ID = j.ID
			if again, err := s.Submit(t.Context(), r); err != nil || again.State != jobs.Succeeded {
				t.Errorf("again: %+v, %v", again, err)
			}
			r.Tenant = "other"
			if _, err := s.Submit(t.Context(), r); !errors.Is(err, face.NotFound) {
				t.Errorf("another tenant's id: %v", err)
			}
		})
	}
}

// counterValue is the value of a counter.
func counterValue(t *testing.T, g prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestRefused(t *testing.T) {
	t.Parallel()
	o, _ := options()
	o.Transferrer = walker{check: func(t style.Task) error {
		if t.Params.Features != style.BuiltIn {
			return face.Errorf(face.Invalid, "walker", "params.layers.style.r11: no such layer")
		}
		return nil
	}}
	s := openUntilEnd(t, filepath.Join(t.TempDir(), "jobs.db"), o)
	for _, tt := range []struct {
		name    string
		change  func(*jobs.Request)
		kind    face.Kind
		pointer string
	}{
		{"no content", func(r *jobs.Request) { r.Content = nil }, face.Invalid, "/content"},
		{"no image", func(r *jobs.Request) { r.Content = []byte("hello") }, face.UnsupportedImage, "/content"},
		{"cut image", func(r *jobs.Request) { r.Styles[0] = r.Styles[0][:len(r.Styles[0])/2] }, face.InvalidImage, "/style/0"},
		{"tiny", func(r *jobs.Request) { r.Styles = append(r.Styles, picture(1, 31)) }, face.Invalid, "/style/1"},
		{"no style", func(r *jobs.Request) { r.Styles = nil }, face.Invalid, "/style"},
		{"five styles", func(r *jobs.Request) {
			for range 4 {
				r.Styles = append(r.Styles, r.Styles[0])
			}
		}, face.Invalid, "/style"},
		{"masks", func(r *jobs.Request) { r.Masks = [][]byte{picture(1, 40), picture(1, 40)} }, face.Invalid, "/mask"},
		{"no iterations", func(r *jobs.Request) { r.Params.Iterations = 0 }, face.Invalid, "/params/iterations"},
		{"a billion", func(r *jobs.Request) { r.Params.Iterations = 1e9 }, face.Invalid, "/params/iterations"},
		{"weights", func(r *jobs.Request) { r.Params.StyleWeights = []float64{-1} }, face.Invalid, "/params/style_weights/0"},
		{"unknown layer", func(r *jobs.Request) { r.Params.Features = "x" }, face.Invalid, "/params/layers/style/r11"},
		{"identity", func(r *jobs.Request) { r.CheckIdentity = true }, face.Invalid, "/check_identity"},
	} {
		r := request(3)
		tt.change(&r)
		_, err := s.Submit(t.Context(), r)
		e, ok := errors.AsType[*face.Error](err)
		if !ok || e.Kind != tt.kind || len(e.Fields) != 1 || e.Fields[0].Pointer != tt.pointer {
			t.Errorf("%s: %+v, want %s at %s", tt.name, err, tt.kind, tt.pointer)
		}
	}
	if list, _, err := s.List(t.Context(), tenant, store.Page{Limit: 10}); err != nil || len(list) > 0 {
		t.Errorf("what was refused is there: %v, %v", list, err)
	}
}

// TestRoom: what a tenant's pictures take is bounded, whatever became of the jobs.
func TestRoom(t *testing.T) {
	t.Parallel()
	for name, place := range places() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, _ := options()
			r := request(3)
			o.MaxBytes = int64(len(r.Content) + len(r.Styles[0])) // one that waits, or a result
			s := openAndStart(t, place(t), o)
			j := awaitState(t, s, submit(t, s, r), jobs.Succeeded)
			if _, err := s.Submit(t.Context(), r); !errors.Is(err, face.QueueFull) {
				t.Errorf("beside the result: %v", err)
			}
			other := r
			other.Tenant = "other"
			submit(t, s, other)
			if _, err := s.Delete(t.Context(), tenant, j.ID); err != nil {
				t.Fatal(err)
			}
			submit(t, s, r)
		})
	}
}

// TestChecksTakeTurns: pictures of one request at a time are in memory.
func TestChecksTakeTurns(t *testing.T) {
	t.Parallel()
	entered, open := make(chan struct{}, 2), make(chan struct{})
	o, _ := options()
	o.Transferrer = walker{check: func(style.Task) error {
		entered <- struct{}{}
		<-open
		return nil
	}}
	s := openUntilEnd(t, filepath.Join(t.TempDir(), "jobs.db"), o)
	first := make(chan error)
	go func() {
		_, err := s.Submit(context.Background(), request(3))
		first <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Submit(ctx, request(3)); !errors.Is(err, face.Canceled) || len(entered) > 0 {
		t.Errorf("the second: %v", err)
	}
	close(open)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

func TestTenantsAndPages(t *testing.T) {
	t.Parallel()
	for name, place := range places() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place := place(t)
			o, _ := options()
			o.MaxQueued = 5
			s := openUntilEnd(t, place, o) // nobody works
			var want []string
			for range 5 {
				want = append([]string{submit(t, s, request(3)).ID}, want...)
			}
			if _, err := s.Submit(t.Context(), request(3)); !errors.Is(err, face.QueueFull) {
				t.Errorf("one too many: %v", err)
			}
			r := request(3)
			r.Tenant = "other"
			other := submit(t, s, r) // its queue is its own
			var got []string
			for page := (store.Page{Limit: 2}); ; {
				items, next, err := s.List(t.Context(), tenant, page)
				if err != nil {
					t.Fatal(err)
				}
				for _, j := range items {
					got = append(got, j.ID)
				}
				if next == "" {
					break
				}
				page.Cursor = next
				if _, _, err := s.List(t.Context(), "other", page); !errors.Is(err, face.Invalid) {
					t.Errorf("another list's cursor: %v", err)
				}
			}
			// Those of one millisecond are in any order.
			if diff := cmp.Diff(want, got, cmpopts.SortSlices(strings.Compare)); diff != "" {
				t.Errorf("listed (-want +got):\n%s", diff)
			}
			ctx := t.Context()
			_, e1 := s.Job(ctx, tenant, other.ID)
			_, e2 := s.Delete(ctx, tenant, other.ID)
			_, e3 := s.Result(ctx, tenant, other.ID)
			_, _, e4 := s.Preview(ctx, tenant, other.ID, 0)
			for _, err := range []error{e1, e2, e3, e4} {
				if !errors.Is(err, face.NotFound) {
					t.Errorf("another tenant's job: %v", err)
				}
			}
			// A queued job is canceled at once, and makes room.
			if j, err := s.Delete(ctx, tenant, want[0]); err != nil || j.State != jobs.Canceled || j.FinishedAt.IsZero() {
				t.Errorf("canceled: %+v, %v", j, err)
			}
			if j, err := s.Delete(ctx, tenant, want[0]); err != nil || j.State != jobs.Canceled {
				t.Errorf("canceled again: %+v, %v", j, err)
			}
			if _, err := s.Result(ctx, tenant, want[0]); !errors.Is(err, face.NotFound) {
				t.Errorf("the picture of a canceled job: %v", err)
			}
			submit(t, s, request(3))
		})
	}
}

// TestTurns: a tenant with a long queue holds nobody else up.
func TestTurns(t *testing.T) {
	t.Parallel()
	for name, place := range places() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place := place(t)
			o, _ := options()
			g := newGate(1)
			o.Transferrer, o.Workers = walker{step: g.step}, 2
			s := openAndStart(t, place, o)
			var all []jobs.Job
			for range 6 {
				all = append(all, submit(t, s, request(2)))
			}
			g.wait(t)
			r := request(2)
			r.Tenant, r.Params.Seed = "other", 9
			all = append(all, submit(t, s, r))
			if seed := g.wait(t); seed != "9" {
				t.Errorf("the second worker took the seed %s", seed)
			}
			close(g.open)
			for _, j := range all {
				awaitState(t, s, j, jobs.Succeeded)
			}
		})
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	for name, place := range places() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place := place(t)
			for name, elsewhere := range map[string]bool{"here": false, "through another server": true} {
				if elsewhere && !strings.HasPrefix(place, "postgres:") {
					continue
				}
				o, _ := options()
				g := newGate(15)
				o.Transferrer = walker{step: g.step}
				s := openAndStart(t, place, o)
				ask := s
				if elsewhere {
					idle, _ := options()
					ask = openUntilEnd(t, place, idle)
				}
				j := submit(t, s, request(100))
				g.wait(t)
				if j, err := ask.Delete(t.Context(), tenant, j.ID); err != nil || j.State != jobs.Running || !j.Canceling {
					t.Errorf("%s: %+v, %v", name, j, err)
				}
				done := awaitState(t, s, j, jobs.Canceled)
				if done.Iteration > 15 || done.Problem != nil || done.Canceling {
					t.Errorf("%s: %+v", name, done)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestBadJobs: what a task does to its worker is that task's problem alone.
func TestBadJobs(t *testing.T) {
	t.Parallel()
	for name, place := range places() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place := place(t)
			o, log := options()
			var tries atomic.Int64
			o.Deadline = 3 * time.Second
			o.Transferrer = walker{step: func(ctx context.Context, task style.Task, iteration int) error {
				switch task.Params.Seed {
				case 1:
					panic("poison")
				case 2:
					return face.Errorf(face.Internal, "walker", "the loss is not finite")
				case 3:
					tries.Add(1)
					return face.Errorf(face.Unavailable, "walker", "no memory")
				case 4:
					if tries.Add(1000); tries.Load() < 2000 {
						return face.Errorf(face.Unavailable, "walker", "no memory")
					}
				case 5:
					<-ctx.Done()
					return face.Wrap(face.Internal, "walker", ctx.Err())
				}
				return nil
			}}
			s := openAndStart(t, place, o)
			for seed, want := range []*jobs.Problem{
				1: {Code: "internal", Title: "Internal error"},
				2: {Code: "internal", Title: "Internal error", Detail: "the loss is not finite"},
				3: {Code: "unavailable", Title: "Not available", Detail: "no memory"},
				4: nil,
				5: {Code: "deadline_exceeded", Title: "Deadline exceeded", Detail: "It was worked on for longer than 3s."},
			} {
				r := request(12)
				r.Params.Seed = uint64(seed)
				j := submit(t, s, r)
				done := await(t, s, j, func(j jobs.Job) bool { return j.State.Final() })
				if diff := cmp.Diff(want, done.Problem); diff != "" || (done.State == jobs.Failed) != (want != nil) {
					t.Errorf("seed %d: %s\n%s", seed, done.State, diff)
				}
				if want != nil {
					if _, err := s.Result(t.Context(), tenant, j.ID); !errors.Is(err, face.NotFound) {
						t.Errorf("seed %d: its picture: %v", seed, err)
					}
				}
			}
			if n := tries.Load() % 1000; n != 3 {
				t.Errorf("a fault that may pass was met %d times", n)
			}
			if !strings.Contains(log.String(), "poison") {
				t.Error("nobody was told of the panic")
			}
		})
	}
}

// TestStop: a server that stops puts its job back with a checkpoint, and the
// next start goes on from there.
func TestStop(t *testing.T) {
	t.Parallel()
	for name, place := range places() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place := place(t)
			o, _ := options()
			g := newGate(17)
			o.Transferrer = walker{step: g.step}
			s := openAndStart(t, place, o)
			r := request(40)
			j := submit(t, s, r)
			g.wait(t)
			stopped := make(chan error, 1)
			go func() { stopped <- s.Stop(context.WithoutCancel(t.Context())) }()
			// Once it stops, the gate may open: the walker sees the stop after it.
			close(g.open)
			if err := errors.Join(<-stopped, s.Close(), s.Close()); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Job(t.Context(), tenant, j.ID); err == nil {
				t.Error("a closed service answers")
			}
			o, log := options()
			again := openAndStart(t, place, o)
			awaitState(t, again, j, jobs.Succeeded)
			checkPicture(t, again, j, r)
			if strings.Contains(log.String(), "lost its worker") {
				t.Error("the job was lost, not put back")
			}
		})
	}
}

// TestCut: a job whose worker does not even look up is cut off, and goes on
// from the checkpoint before.
func TestCut(t *testing.T) {
	t.Parallel()
	for name, place := range places() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place := place(t)
			o, _ := options()
			g := newGate(17)
			o.Transferrer = walker{step: g.step}
			s := openAndStart(t, place, o)
			r := request(40)
			j := submit(t, s, r)
			g.wait(t)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			o, log := options()
			again := openAndStart(t, place, o)
			awaitState(t, again, j, jobs.Succeeded)
			checkPicture(t, again, j, r)
			if !strings.Contains(log.String(), "resumed") || !strings.Contains(log.String(), "iteration=10") {
				t.Errorf("not resumed from 10:\n%s", log)
			}
		})
	}
}

// TestStaleCheckpoint: a checkpoint that is of no use costs its work, not the job.
func TestStaleCheckpoint(t *testing.T) {
	t.Parallel()
	place := filepath.Join(t.TempDir(), "jobs.db")
	o, _ := options()
	g := newGate(12)
	o.Transferrer = walker{step: g.step}
	s := openAndStart(t, place, o)
	r := request(20)
	j := submit(t, s, r)
	g.wait(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o, log := options()
	o.Transferrer = refusing{}
	again := openAndStart(t, place, o)
	awaitState(t, again, j, jobs.Succeeded)
	checkPicture(t, again, j, r)
	if !strings.Contains(log.String(), "begins anew") {
		t.Errorf("it did not begin anew:\n%s", log)
	}
}

// refusing takes no checkpoint.
type refusing struct{ walker }

func (r refusing) Transfer(ctx context.Context, t style.Task, observe func(style.Report) error) (*image.RGBA, error) {
	if t.Checkpoint != nil {
		return nil, face.Errorf(face.Invalid, "walker", "params.checkpoint: of another version")
	}
	return r.walker.Transfer(ctx, t, observe)
}

func TestErase(t *testing.T) {
	t.Parallel()
	for name, place := range places() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place := place(t)
			o, _ := options()
			s := openAndStart(t, place, o)
			j := awaitState(t, s, submit(t, s, request(3)), jobs.Succeeded)
			if gone, err := s.Delete(t.Context(), tenant, j.ID); err != nil || gone.State != jobs.Succeeded {
				t.Errorf("erased: %+v, %v", gone, err)
			}
			for range 2 {
				if _, err := s.Result(t.Context(), tenant, j.ID); !errors.Is(err, face.NotFound) {
					t.Errorf("erased: %v", err)
				}
			}
			if _, err := s.Delete(t.Context(), tenant, j.ID); !errors.Is(err, face.NotFound) {
				t.Errorf("erased twice: %v", err)
			}
		})
	}
}

// TestErasedFromFile: what was sent is nowhere in the files once the job ended.
func TestErasedFromFile(t *testing.T) {
	t.Parallel()
	place := filepath.Join(t.TempDir(), "jobs.db")
	o, _ := options()
	g := newGate(2)
	o.Transferrer = walker{step: g.step}
	s := openAndStart(t, place, o)
	r := request(3)
	there := func() bool {
		for _, name := range []string{place, place + "-wal"} {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(data, r.Content) {
				return true
			}
		}
		return false
	}
	j := submit(t, s, r)
	g.wait(t)
	if !there() {
		t.Fatal("the picture is not looked for where it lies")
	}
	close(g.open)
	awaitState(t, s, j, jobs.Succeeded)
	await(t, s, j, func(jobs.Job) bool { return !there() })
}

func TestPurge(t *testing.T) {
	t.Parallel()
	for name, place := range places() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place := place(t)
			o, _ := options()
			o.TTL = 100 * time.Millisecond
			s := openAndStart(t, place, o)
			j := submit(t, s, request(3))
			deadline := time.Now().Add(patience)
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for ; ; <-tick.C {
				_, err := s.Job(t.Context(), tenant, j.ID)
				if errors.Is(err, face.NotFound) {
					return
				}
				if time.Now().After(deadline) {
					t.Fatal("it is still there")
				}
			}
		})
	}
}

func TestPreview(t *testing.T) {
	t.Parallel()
	for name, place := range places() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place := place(t)
			o, _ := options()
			ctx, done := context.WithCancel(t.Context())
			o.Transferrer = walker{step: func(run context.Context, _ style.Task, _ int) error {
				tick := time.NewTimer(5 * time.Millisecond) // as a network would take
				defer tick.Stop()
				select {
				case <-tick.C:
				case <-ctx.Done():
				case <-run.Done():
				}
				return nil
			}}
			s := openAndStart(t, place, o)
			r := request(2000)
			j := submit(t, s, r)
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for n, deadline := 0, time.Now().Add(patience); n == 0; <-tick.C {
				data, number, err := s.Preview(t.Context(), tenant, j.ID, n)
				if err != nil || time.Now().After(deadline) {
					t.Fatalf("no preview: %v", err)
				}
				if data != nil {
					if img, err := png.Decode(bytes.NewReader(data)); err != nil || img.Bounds().Dx() != 64 {
						t.Errorf("preview: %v", err)
					}
					n = number
				}
			}
			done()
			awaitState(t, s, j, jobs.Succeeded)
			if data, _, err := s.Preview(t.Context(), tenant, j.ID, 0); err != nil || data != nil {
				t.Errorf("a preview stayed: %v", err)
			}
		})
	}
}

func TestOneProcess(t *testing.T) {
	t.Parallel()
	place := filepath.Join(t.TempDir(), "jobs.db")
	o, _ := options()
	openUntilEnd(t, place, o)
	if _, err := open(t.Context(), place, o); !errors.Is(err, face.Unavailable) {
		t.Errorf("opened twice: %v", err)
	}
}

func TestNotMigrated(t *testing.T) {
	t.Parallel()
	o, _ := options()
	_, err := open(t.Context(), pgtest.Database(t, nil), o)
	if !errors.Is(err, face.Unavailable) || !strings.Contains(err.Error(), "server migrate") {
		t.Errorf("an empty database: %v", err)
	}
	if err := migrate(pgtest.Database(t, migrate)); err != nil {
		t.Errorf("migrated twice: %v", err)
	}
}
