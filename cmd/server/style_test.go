package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/likeness-id/likeness/internal/pgtest"
)

// ringsPNG is a picture with lines.
func ringsPNG(t *testing.T, pitch float64) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, 96, 80))
	for y := range 80 {
		for x := range 96 {
			d := math.Hypot(float64(x-30), float64(y-50))
			v := func(k float64) uint8 { return uint8(127.5 + 120*math.Sin(d*pitch*k+float64(x)/20)) }
			img.SetRGBA(x, y, color.RGBA{v(1), v(0.7), v(1.3), 255})
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// events reads a job's state from the server's events until is returns true.
func (s *server) events(path string, is func(state string, iteration int) bool) {
	s.tb.Helper()
	res, err := http.Get(s.url + path + "/events")
	if err != nil {
		s.tb.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		var job struct {
			State     string
			Iteration int
		}
		if !ok || json.Unmarshal([]byte(data), &job) != nil {
			continue
		}
		if is(job.State, job.Iteration) {
			return
		}
		if job.State == "failed" || job.State == "canceled" {
			s.tb.Fatalf("the job has ended: %s", data)
		}
	}
	s.tb.Fatalf("the events of %s ended: %v", path, lines.Err())
}

func (s *server) picture(path string) []byte {
	s.tb.Helper()
	s.events(path, func(state string, _ int) bool { return state == "succeeded" })
	res, err := http.Get(s.url + path + "/result")
	if err != nil {
		s.tb.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		s.tb.Fatalf("%s/result: %d %v", path, res.StatusCode, err)
	}
	return data
}

// A server that is killed during a job continues it after a restart, and the
// picture is the same as without the kill.
func TestStyleKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir, "LIKENESS_AUTH=off", "LIKENESS_STYLE_THREADS=1")
	submit := func(s *server) string {
		body, kind := multipartBody(t, map[string]any{
			"content": ringsPNG(t, 0.12), "style": ringsPNG(t, 0.9), "params": `{"size":96,"iterations":120,"seed":7}`,
		})
		return "/style-transfer/" + s.call("POST", "/style-transfer", "", http.StatusAccepted, kind, body)["job_id"].(string)
	}
	whole := s.picture(submit(s))
	path := submit(s)
	s.events(path, func(_ string, iteration int) bool { return iteration >= 25 })
	s.signal(syscall.SIGKILL)
	if err := <-s.exited; err == nil {
		t.Error("the server ended by itself")
	}

	s = startServer(t, dir, "LIKENESS_AUTH=off", "LIKENESS_STYLE_THREADS=1")
	s.await("style job resumed")
	resumed := s.picture(path)
	if !bytes.Equal(whole, resumed) {
		t.Errorf("the resumed job made another picture (%d bytes, not %d)", len(resumed), len(whole))
	}
}

// TestStyleTwoServers kills one of two servers on a Postgres during twenty
// jobs: each picture is made exactly once.
func TestStyleTwoServers(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t, nil)
	begin := func() *server {
		return startServer(t, t.TempDir(), "LIKENESS_AUTH=off", "LIKENESS_DATABASE_URL="+url, "LIKENESS_MIGRATE=true",
			"LIKENESS_STYLE_THREADS=1", "LIKENESS_STYLE_PER_TENANT=2", "LIKENESS_RATE_LIMIT=0")
	}
	one, two := begin(), begin()
	content, manner := ringsPNG(t, 0.12), ringsPNG(t, 0.9)
	var paths []string
	for seed := range 20 {
		body, kind := multipartBody(t, map[string]any{
			"content": content, "style": manner, "params": fmt.Sprintf(`{"size":64,"iterations":30,"init":"noise","seed":%d}`, seed%10),
		})
		by := []*server{one, two}[seed%2]
		paths = append(paths, "/style-transfer/"+by.call("POST", "/style-transfer", "", http.StatusAccepted, kind, body)["job_id"].(string))
	}
	one.await("style job left")
	// The server that is killed must be working: each has one worker, and two
	// jobs run.
	for running := 0; running != 2; {
		two.signal(syscall.SIGCONT)
		two.await("style job begun")
		two.signal(syscall.SIGSTOP)
		running = 0
		for _, j := range one.call("GET", "/style-transfer?limit=100", "", http.StatusOK, "", nil)["items"].([]any) {
			if j.(map[string]any)["state"] == "running" {
				running++
			}
		}
	}
	two.signal(syscall.SIGKILL)
	if err := <-two.exited; err == nil {
		t.Error("the server ended by itself")
	}
	var pictures [][]byte
	for i, path := range paths {
		pictures = append(pictures, one.picture(path))
		if i >= 10 && !bytes.Equal(pictures[i], pictures[i-10]) {
			t.Errorf("job %d made another picture than its twin", i)
		}
	}
	one.signal(syscall.SIGTERM)
	if err := <-one.exited; err != nil {
		t.Error(err)
	}
	log := one.log.String() + two.log.String()
	for i, path := range paths {
		left := `"msg":"style job left","job_id":"` + strings.TrimPrefix(path, "/style-transfer/") + `"`
		if n := strings.Count(log, left); n != 1 {
			t.Errorf("job %d ended %d times", i, n)
		}
	}
	if !strings.Contains(log, "style job lost its worker") {
		t.Error("nobody was at work when it was killed")
	}
}
