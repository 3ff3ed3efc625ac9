package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// rings is a picture with lines in it.
func rings(t *testing.T, pitch float64) []byte {
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

// events reads a job's state from the server's events until is says so.
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

// A server that is killed in the middle of a job goes on with it when it is
// started again, and the picture is the one that it would have been.
func TestStyleKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, dir, "LIKENESS_AUTH=off", "LIKENESS_STYLE_THREADS=1")
	submit := func(s *server) string {
		body, kind := form(t, map[string]any{
			"content": rings(t, 0.12), "style": rings(t, 0.9), "params": `{"size":96,"iterations":120,"seed":7}`,
		})
		return "/style-transfer/" + s.call("POST", "/style-transfer", "", http.StatusAccepted, kind, body)["job_id"].(string)
	}
	whole := s.picture(submit(s))
	path := submit(s)
	s.events(path, func(_ string, iteration int) bool { return iteration >= 25 })
	s.signal(syscall.SIGKILL)
	<-s.exited

	s = start(t, dir, "LIKENESS_AUTH=off", "LIKENESS_STYLE_THREADS=1")
	s.await("style job resumed")
	resumed := s.picture(path)
	if !bytes.Equal(whole, resumed) {
		t.Errorf("the resumed job made another picture (%d bytes, not %d)", len(resumed), len(whole))
	}
}
