package app_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "modernc.org/sqlite" // another hand at the files

	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/internal/smalldisk"
	"github.com/likeness-id/likeness/pkg/app"
	"github.com/likeness-id/likeness/pkg/style"
)

// patience is when a test gives up.
const patience = 30 * time.Second

// lines is a log that tests read.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// painter works on until it is told to end, and then says how far it was.
type painter struct {
	begun chan struct{}
	ended chan painted
}

type painted struct{ iteration, saved int }

func (painter) Check(style.Task) error { return nil }

func (p painter) Transfer(ctx context.Context, _ style.Task, observe func(style.Report) error) (*image.RGBA, error) {
	var at painted
	for {
		at.iteration++
		err := observe(style.Report{
			Iteration: at.iteration, Iterations: 1 << 30,
			Checkpoint: func() ([]byte, error) { at.saved = at.iteration; return []byte{1}, nil },
		})
		if at.iteration == 3 {
			close(p.begun)
		}
		if err != nil {
			p.ended <- at
			return nil, err
		}
	}
}

// hang begins an import and sends no more, once the server is at work on it.
func hang(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(conn, "POST /galleries/default/import HTTP/1.1\r\nHost: 127.0.0.1\r\n"+
		"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"sub\r\n")
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if _, body := get(t, "http://"+addr+"/metrics"); strings.Contains(body, "likeness_http_requests_in_flight 2") {
			return conn
		}
	}
	t.Fatal("the server does not see the import")
	panic("unreachable")
}

// get returns the status and the body of an answer.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// post sends a JSON body and returns the status and the body of the answer.
func post(t *testing.T, url string, v any) (int, string) {
	t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(answer)
}

// TestDrainSavesJobs stops a server while an import hangs: the style job at
// work keeps its newest state at once, and how the stop ends depends on what
// ended it.
func TestDrainSavesJobs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		stop func() (context.Context, context.CancelFunc)
		ends bool // the import, by itself
	}{
		{"the import ends", func() (context.Context, context.CancelFunc) {
			return context.WithCancel(context.Background())
		}, true},
		{"the time ends", func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(context.Background(), 2*time.Second)
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o, log := options(t), &lines{}
			p := painter{make(chan struct{}), make(chan painted, 1)}
			o.Transferrer = p
			a, err := app.New(t.Context(), o, "test", slog.New(slog.NewTextHandler(log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			a.Start()
			photo := flatPNG(t)
			if status, answer := post(t, "http://"+a.Addr()+"/style-transfer", map[string]any{"content": photo, "style": [][]byte{photo}}); status != http.StatusAccepted {
				t.Fatal(answer)
			}
			<-p.begun
			conn := hang(t, a.Addr())
			defer conn.Close()
			ctx, cancel := c.stop()
			defer cancel()
			stopped := make(chan error, 1)
			go func() { stopped <- a.Stop(ctx) }()
			select {
			case at := <-p.ended:
				if at.saved != at.iteration {
					t.Errorf("the job was at iteration %d, and %d is saved", at.iteration, at.saved)
				}
			case <-time.After(patience):
				t.Error("the job was not told of the drain")
			}
			if c.ends {
				conn.Close()
			}
			if err := <-stopped; err != nil {
				t.Errorf("Stop says %v", err)
			}
			if cut := strings.Contains(log.String(), "requests under way were cut"); cut == c.ends {
				t.Errorf("requests were cut: %v\n%s", cut, log)
			}
		})
	}
}

// TestCutIsAnError: a stop that somebody has no more patience with says so.
func TestCutIsAnError(t *testing.T) {
	t.Parallel()
	a, err := app.New(t.Context(), options(t), "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	a.Start()
	defer hang(t, a.Addr()).Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := a.Stop(ctx); err == nil || !strings.Contains(err.Error(), "requests were cut") {
		t.Errorf("Stop says %v", err)
	}
}

// TestDamagedJobs starts servers whose file of style jobs is of no use: all
// but style transfer works, and the log says how to mend it.
func TestDamagedJobs(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(path string) error{
		"text": func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("no database\n"), 1000), 0o600) },
		"cut":  func(path string) error { return os.Truncate(path, 5000) },
		"pages": func(path string) error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt(bytes.Repeat([]byte{0xa5}, 64<<10), 4096)
			return err
		},
		"a folder": func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Mkdir(path, 0o700)
		},
		"a newer program": func(path string) error {
			db, err := sql.Open("sqlite", path)
			if err != nil {
				return err
			}
			defer db.Close()
			_, err = db.Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, log := options(t), &lines{}
			run := func(work func(url string)) {
				t.Helper()
				a, err := app.New(t.Context(), o, "test", slog.New(slog.NewTextHandler(log, nil)))
				if err != nil {
					t.Fatal(err)
				}
				a.Start()
				work("http://" + a.Addr())
				if err := a.Stop(context.WithoutCancel(t.Context())); err != nil {
					t.Error(err)
				}
			}
			run(func(string) {})
			path := filepath.Join(o.DataDir, "jobs.db")
			// A connection that was at work at the end closes a moment later, and
			// leaves the log, from which SQLite would mend the pages.
			for _, rest := range []string{"-wal", "-shm"} {
				if err := os.Remove(path + rest); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
			}
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			run(func(url string) {
				for end := time.Now().Add(patience); ; {
					status, body := get(t, url+"/readyz")
					if status == http.StatusOK {
						break
					}
					if time.Now().After(end) {
						t.Fatalf("not ready: %s", body)
					}
				}
				if status, body := post(t, url+"/galleries/default/subjects", map[string]any{"subject_id": "ann"}); status != http.StatusCreated {
					t.Errorf("a subject: %s", body)
				}
				photo := flatPNG(t)
				status, body := post(t, url+"/style-transfer", map[string]any{"content": photo, "style": [][]byte{photo}})
				if status != http.StatusServiceUnavailable || !strings.Contains(body, `"unavailable"`) {
					t.Errorf("a style transfer: %d %s", status, body)
				}
				if status, body := get(t, url+"/style-transfer"); status != http.StatusServiceUnavailable {
					t.Errorf("the list of style transfers: %d %s", status, body)
				}
			})
			if !strings.Contains(log.String(), "To mend it") || !strings.Contains(log.String(), "jobs.db") {
				t.Errorf("the log does not say how to mend it:\n%s", log)
			}
		})
	}
}

// cutting is a database's address that cuts the first connections, as a
// Postgres that is about to start does.
func cutting(t *testing.T, database string, first int64) (address string, cuts *atomic.Int64) {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	target := u.Host
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() {
		listener.Close()
		running.Wait()
	})
	cuts = new(atomic.Int64)
	running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			if cuts.Load() < first {
				cuts.Add(1)
				_ = client.(*net.TCPConn).SetLinger(0) // the client sees a reset
				client.Close()
				continue
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				client.Close()
				continue
			}
			running.Go(func() { _, _ = io.Copy(server, client); server.Close() })
			running.Go(func() { _, _ = io.Copy(client, server); client.Close() })
		}
	})
	u.Host = listener.Addr().String()
	return u.String(), cuts
}

// TestCutAtStart starts servers on a Postgres that resets the first connections.
func TestCutAtStart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		first int64
		wait  time.Duration
		says  string
	}{
		{"a few", 3, patience, ""},
		{"one try", 3, 0, "cannot be reached"},
		{"too many", 1 << 40, time.Second, "cannot be reached"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o, log := options(t), &lines{}
			o.Migrate, o.DatabaseWait = true, c.wait
			var cuts *atomic.Int64
			o.DatabaseURL, cuts = cutting(t, pgtest.Database(t, nil), c.first)
			a, err := app.New(t.Context(), o, "test", slog.New(slog.NewTextHandler(log, nil)))
			if err == nil {
				err = a.Stop(context.WithoutCancel(t.Context()))
			}
			if (err != nil) != (c.says != "") || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("New and Stop: %v", err)
			}
			if c.says == "" && cuts.Load() != c.first {
				t.Errorf("%d connections were cut", cuts.Load())
			}
			if tried := strings.Contains(log.String(), "trying again"); tried != (c.wait > 0) {
				t.Errorf("tried again: %v\n%s", tried, log)
			}
		})
	}
	t.Run("a wrong name is no matter of waiting", func(t *testing.T) {
		t.Parallel()
		o, log := options(t), &lines{}
		o.DatabaseWait = time.Hour
		o.DatabaseURL = strings.Replace(pgtest.Database(t, nil), "/test_", "/not_there_", 1)
		if _, err := app.New(t.Context(), o, "test", slog.New(slog.NewTextHandler(log, nil))); err == nil || strings.Contains(log.String(), "trying again") {
			t.Errorf("New: %v\n%s", err, log)
		}
	})
}

// TestFullDisk fills the disk under a server: it starts, refuses what it
// cannot keep by a code of its own, and erases who is to be erased.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.DataDir, o.DiskReserve = smalldisk.New(t, 16<<20), 4<<20
	for range 2 {
		a, err := app.New(t.Context(), o, "test", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		a.Start()
		subjects := "http://" + a.Addr() + "/galleries/default/subjects"
		status, body := http.StatusCreated, ""
		for i := 0; status == http.StatusCreated; i++ {
			status, body = post(t, subjects, map[string]any{"metadata": map[string]string{"about": strings.Repeat("somebody ", 400)}})
			if i == 100 {
				smalldisk.Fill(t, o.DataDir)
			}
		}
		if status != http.StatusServiceUnavailable || !strings.Contains(body, `"storage_full"`) {
			t.Errorf("a subject on a full disk: %d %s", status, body)
		}
		_, body = get(t, subjects+"?limit=1")
		var list struct {
			Items []struct {
				SubjectID string `json:"subject_id"`
			}
		}
		if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Items) != 1 {
			t.Fatalf("the list of subjects: %v %s", err, body)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, subjects+"/"+list.Items[0].SubjectID, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		http.DefaultClient.CloseIdleConnections()
		if res.StatusCode != http.StatusOK {
			t.Errorf("erasing on a full disk: %s", res.Status)
		}
		if err := a.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("Stop: %v", err)
		}
	}
}
