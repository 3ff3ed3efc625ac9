package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/likeness-id/likeness/pkg/client"
)

// server is a bin/server with its own data, as a child process.
type server struct {
	cmd    *exec.Cmd
	url    string
	api    *client.Client // of what is not measured
	idle   chan *connection
	dir    string
	exited chan error
}

func (b *bench) startServer(ctx context.Context, env ...string) (_ *server, err error) {
	s := &server{exited: make(chan error, 1), idle: make(chan *connection, 64)}
	if s.dir, err = os.MkdirTemp("", "likeness-bench-"); err != nil {
		return nil, err
	}
	// The log goes to a file, because a pipe would wake this process, on the
	// server's cores, at every request.
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	free, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	listen := free.Addr().String()
	s.url = "http://" + listen
	if s.api, err = client.New(s.url, client.Options{Attempts: 1}); err != nil {
		return nil, err
	}
	if err := free.Close(); err != nil {
		return nil, err
	}
	s.cmd = exec.CommandContext(ctx, b.Server)
	s.cmd.Stderr = log
	s.cmd.Env = append(os.Environ(),
		"LIKENESS_LISTEN="+listen, "LIKENESS_AUTH=off", "LIKENESS_RATE_LIMIT=0", "LIKENESS_DATA_DIR="+s.dir,
		"LIKENESS_MODELS_DIR="+strings.Join(b.ModelsDir, ","),
		"LIKENESS_QUEUE_TIME=10s") // all clients are to wait; the part "overload" says otherwise
	s.cmd.Env = append(s.cmd.Env, env...)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { s.exited <- s.cmd.Wait() }()
	for {
		if _, err := s.api.GetReadiness(ctx); err == nil {
			return s, nil
		}
		select {
		case err := <-s.exited:
			text, _ := os.ReadFile(log.Name())
			return nil, fmt.Errorf("%s did not start: %w\n%s", b.Server, err, text)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (s *server) stop() error {
	close(s.idle)
	for c := range s.idle {
		_ = c.Close() // nothing of it is wanted any more
	}
	err := errors.Join(s.cmd.Process.Signal(os.Interrupt), <-s.exited)
	return errors.Join(err, os.RemoveAll(s.dir))
}

// connection is one to the server, between two requests.
type connection struct {
	net.Conn
	r *bufio.Reader
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

// send sends a request. Another status than the one that it wants is an error.
func (s *server) send(ctx context.Context, r request) error {
	status, answer, err := s.exchange(ctx, r)
	if err == nil && status != r.want {
		err = fmt.Errorf("%s %s: %d instead of %d: %s", r.method, r.path, status, r.want, answer)
	}
	return err
}

// exchange sends a request and reads its answer on a connection that is kept,
// as cheaply as a load generator can: what a client costs is taken from the
// server's own cores.
func (s *server) exchange(ctx context.Context, r request) (status int, answer []byte, err error) {
	var c *connection
	select {
	case c = <-s.idle:
	default:
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			return 0, nil, err
		}
		c = &connection{conn, bufio.NewReader(conn)}
	}
	keep := false
	defer func() {
		if keep {
			select {
			case s.idle <- c:
				return
			default:
			}
		}
		_ = c.Close() // nothing of it is wanted any more
	}()
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n",
		r.method, r.path, r.contentType, len(r.body))
	if _, err := (&net.Buffers{[]byte(head), r.body}).WriteTo(c); err != nil {
		return 0, nil, err
	}
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	answer, err = io.ReadAll(res.Body)
	keep = err == nil && !res.Close
	return res.StatusCode, answer, err
}

// populated is a server with up to n people enrolled: those whose photos the
// quality gate accepts. env is added to the server's environment.
func (b *bench) populated(ctx context.Context, n int, env ...string) (s *server, subjects []string, photos [][]byte, err error) {
	people, err := b.people(n)
	if err != nil {
		return nil, nil, nil, err
	}
	if s, err = b.startServer(ctx, env...); err != nil {
		return nil, nil, nil, err
	}
	subjects, photos, err = s.enrol(ctx, people)
	return s, subjects, photos, err
}

// enrol makes a subject of each photo and returns those that the quality gate
// accepted.
func (s *server) enrol(ctx context.Context, people [][]byte) (subjects []string, photos [][]byte, err error) {
	for i, photo := range people {
		id := "s" + strconv.Itoa(i)
		taken, err := s.enrolOne(ctx, id, photo)
		if err != nil {
			return nil, nil, err
		}
		if taken {
			subjects, photos = append(subjects, id), append(photos, photo)
		}
	}
	if len(subjects) < len(people)/2 {
		return nil, nil, fmt.Errorf("only %d of %d photos could be enrolled", len(subjects), len(people))
	}
	return subjects, photos, nil
}

// enrolOne makes a subject of a photo; taken says whether the quality gate
// accepted it.
func (s *server) enrolOne(ctx context.Context, id string, photo []byte) (taken bool, err error) {
	if _, err := s.api.CreateSubject(ctx, "default", client.SubjectCreate{SubjectID: &id}); err != nil {
		return false, err
	}
	_, err = s.api.EnrolTemplate(ctx, "default", id, client.EnrolForm{Image: client.PhotoBytes(photo)})
	return err == nil, nil
}

// metric is one sample of /metrics without labels.
func (s *server) metric(ctx context.Context, name string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	text, err := s.api.GetMetrics(ctx)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			return strconv.ParseFloat(v, 64)
		}
	}
	return 0, fmt.Errorf("/metrics has no %s", name)
}
