package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// server is a bin/server of its own, with its own data, as a child.
type server struct {
	cmd    *exec.Cmd
	url    string
	client *http.Client
	dir    string
	exited chan error
}

func (b *bench) startServer(ctx context.Context) (_ *server, err error) {
	s := &server{exited: make(chan error, 1), client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	if s.dir, err = os.MkdirTemp("", "likeness-bench-"); err != nil {
		return nil, err
	}
	s.cmd = exec.CommandContext(ctx, b.Server)
	s.cmd.Env = append(os.Environ(),
		"LIKENESS_LISTEN=127.0.0.1:0", "LIKENESS_AUTH=off", "LIKENESS_RATE_LIMIT=0",
		"LIKENESS_DATA_DIR="+s.dir, "LIKENESS_LOG_LEVEL=INFO",
		"LIKENESS_MODELS_DIR="+strings.Join(b.ModelsDir, ","))
	log, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	answering := make(chan string, 1)
	go func() {
		defer close(answering)
		lines := bufio.NewScanner(log)
		for lines.Scan() {
			var line struct{ Msg, Listen string }
			if json.Unmarshal(lines.Bytes(), &line) != nil {
				fmt.Fprintln(os.Stderr, lines.Text())
			}
			if line.Msg == "answering" {
				answering <- line.Listen
			}
		}
		s.exited <- s.cmd.Wait()
	}()
	listen, ok := <-answering
	if !ok {
		return nil, fmt.Errorf("%s did not start: %w", b.Server, <-s.exited)
	}
	s.url = "http://" + listen
	return s, nil
}

func (s *server) stop() error {
	err := errors.Join(s.cmd.Process.Signal(os.Interrupt), <-s.exited)
	return errors.Join(err, os.RemoveAll(s.dir))
}

// request is one request, encoded once and sent often.
type request struct {
	method, path, contentType string
	body                      []byte
	want                      int // status
}

func form(method, path string, want int, parts ...any) request {
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for i := 0; i < len(parts); i += 2 {
		name := parts[i].(string)
		switch v := parts[i+1].(type) {
		case string:
			_ = w.WriteField(name, v) // a bytes.Buffer takes everything
		case []byte:
			part, _ := w.CreateFormFile(name, "photo")
			_, _ = part.Write(v)
		}
	}
	_ = w.Close()
	return request{method, path, w.FormDataContentType(), body.Bytes(), want}
}

func (s *server) send(ctx context.Context, r request) error {
	req, err := http.NewRequestWithContext(ctx, r.method, s.url+r.path, bytes.NewReader(r.body))
	if err != nil {
		return err
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != r.want {
		err = fmt.Errorf("%s %s: %d instead of %d: %s", r.method, r.path, res.StatusCode, r.want, answer)
	}
	return err
}

// enrol makes a subject of each photo and returns those that the quality gate took.
func (s *server) enrol(ctx context.Context, people [][]byte) (subjects []string, photos [][]byte, err error) {
	for i, photo := range people {
		id := "s" + strconv.Itoa(i)
		r := request{"POST", "/galleries/default/subjects", "application/json", []byte(`{"subject_id":"` + id + `"}`), http.StatusCreated}
		if err := s.send(ctx, r); err != nil {
			return nil, nil, err
		}
		if s.send(ctx, form("POST", "/galleries/default/subjects/"+id+"/templates", http.StatusCreated, "image", photo)) == nil {
			subjects, photos = append(subjects, id), append(photos, photo)
		}
	}
	if len(subjects) < len(people)/2 {
		return nil, nil, fmt.Errorf("only %d of %d photos could be enrolled", len(subjects), len(people))
	}
	return subjects, photos, nil
}

// metric is one sample of /metrics without labels.
func (s *server) metric(ctx context.Context, name string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(v, 64)
		}
	}
	return 0, fmt.Errorf("/metrics has no %s", name)
}
