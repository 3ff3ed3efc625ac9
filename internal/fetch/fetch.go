// Package fetch downloads files whose content is known beforehand by its
// hash: models, and the ONNX Runtime library.
package fetch

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
)

// maxAttempts bounds how often an interrupted download is resumed.
const maxAttempts = 20

// Progress receives how many bytes of a file are there, including those of
// earlier attempts, and how many there will be, 0 if that is unknown.
type Progress func(done, total int64)

// File is what to download.
type File struct {
	URL      string
	SHA256   string // lower-case hex
	SHA384   string // the same, for a file whose source states this one; then SHA256 is empty
	MaxBytes int64  // no more than this is ever written
}

// hash is the hash by which the file is known: an empty one, its name, and what
// it must be.
func (f File) hash() (h hash.Hash, name, want string) {
	if f.SHA256 == "" {
		return sha512.New384(), "SHA-384", f.SHA384
	}
	return sha256.New(), "SHA-256", f.SHA256
}

// Client downloads. It is safe for concurrent use on different files.
type Client struct {
	HTTP  *http.Client
	Stall time.Duration // a transfer without any bytes for this long is ended
}

// NewClient makes a client that soon gives up if there is no network.
func NewClient() *Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	t.TLSHandshakeTimeout = 10 * time.Second
	t.ResponseHeaderTimeout = 30 * time.Second
	return &Client{HTTP: &http.Client{Transport: t}, Stall: 30 * time.Second}
}

// Get downloads the file to dst; progress may be nil. It does nothing if dst
// holds the file already. Bytes are kept in dst.part until all are there, so
// that a later Get can resume. A transfer that was interrupted after some bytes
// is resumed at once. dst appears in one step, after its hash was checked.
//
// The error is Unavailable if the server cannot be reached or does not have the
// file, TooLarge if there are too many bytes, and Invalid if the hash differs.
func (c *Client) Get(ctx context.Context, f File, dst string, progress Progress) error {
	const op = "fetch.Get"
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return face.Wrap(face.Internal, op, err)
	}
	part := dst + ".part"
	for {
		h, name, want := f.hash()
		if sum, err := hashFile(dst, h); err == nil && sum == want {
			return nil
		}
		before := sizeOf(part)
		if err := c.complete(ctx, f, part, progress); err != nil {
			if face.KindOf(err) == face.TooLarge || sizeOf(part) == 0 {
				if gone := os.Remove(part); !errors.Is(gone, fs.ErrNotExist) {
					err = errors.Join(err, gone)
				}
			}
			return err
		}
		h.Reset()
		sum, err := hashFile(part, h)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process has finished the same download
		}
		if err != nil {
			return face.Wrap(face.Internal, op, err)
		}
		if sum == want {
			return face.Wrap(face.Internal, op, os.Rename(part, dst))
		}
		if err := os.Remove(part); err != nil {
			return face.Wrap(face.Internal, op, err)
		}
		if before == 0 {
			return face.Errorf(face.Invalid, op, "%s has %s %s, want %s", f.URL, name, sum, want)
		}
		// The bytes of an earlier attempt may be of another file.
	}
}

// complete downloads into part until all of it is there.
func (c *Client) complete(ctx context.Context, f File, part string, progress Progress) error {
	for attempt := 1; ; attempt++ {
		before := sizeOf(part)
		err := c.attempt(ctx, f, part, progress)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return face.Wrap(face.Canceled, "fetch.Get", ctx.Err())
		case isFinal(err):
			return err
		case attempt == maxAttempts || sizeOf(part) <= before:
			return &face.Error{Kind: face.Unavailable, Op: "fetch.Get", Detail: "cannot download " + f.URL, Err: err}
		}
	}
}

// isFinal reports whether another attempt is useless.
func isFinal(err error) bool {
	_, ok := errors.AsType[*face.Error](err)
	return ok
}

// attempt makes one request for the bytes that part still lacks. A [face.Error]
// is final; after any other error another attempt may succeed.
func (c *Client) attempt(ctx context.Context, f File, part string, progress Progress) (err error) {
	const op = "fetch.Get"
	out, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return face.Wrap(face.Internal, op, err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	offset, err := out.Seek(0, io.SeekEnd)
	if err == nil && offset > f.MaxBytes {
		offset, err = 0, restart(out)
	}
	if err != nil {
		return face.Wrap(face.Internal, op, err)
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(c.Stall, func() { cancel(fmt.Errorf("nothing came for %v", c.Stall)) })
	defer stall.Stop()

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.URL, nil)
	if err != nil {
		return face.Errorf(face.Invalid, op, "%v", err)
	}
	// If the transport decompressed by itself, offsets would mean nothing.
	req.Header.Set("Accept-Encoding", "identity")
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		if asked, ok := errors.AsType[*url.Error](err); ok {
			err = asked.Err // without the address, which the message has already
		}
		return causeOr(ctx, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && offset > 0:
		return nil // all bytes are there, and the hash will be checked
	case resp.StatusCode == http.StatusPartialContent && strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)):
	case resp.StatusCode == http.StatusOK:
		offset = 0
		if err := restart(out); err != nil {
			return face.Wrap(face.Internal, op, err)
		}
	default:
		return face.Errorf(face.Unavailable, op, "%s answered %s", f.URL, resp.Status)
	}
	var total int64
	if resp.ContentLength >= 0 {
		total = offset + resp.ContentLength
	}
	tooLarge := face.Errorf(face.TooLarge, op, "%s has more than %d bytes", f.URL, f.MaxBytes)
	if total > f.MaxBytes {
		return tooLarge
	}
	w := &meter{w: out, done: offset, total: total, progress: progress, stall: stall, period: c.Stall}
	n, err := io.Copy(w, io.LimitReader(resp.Body, f.MaxBytes-offset))
	if err != nil {
		return causeOr(ctx, err)
	}
	if offset+n == f.MaxBytes {
		if extra, _ := io.ReadFull(resp.Body, make([]byte, 1)); extra > 0 {
			return tooLarge
		}
	}
	return nil
}

// restart empties a file.
func restart(f *os.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return errors.Join(err, f.Truncate(0))
}

// causeOr returns why the context ended, or the error if it has not ended.
func causeOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// meter reports what is written and restarts the stall timer.
type meter struct {
	w           io.Writer
	done, total int64
	progress    Progress
	stall       *time.Timer
	period      time.Duration
}

func (m *meter) Write(b []byte) (int, error) {
	m.stall.Reset(m.period)
	n, err := m.w.Write(b)
	m.done += int64(n)
	if m.progress != nil {
		m.progress(m.done, m.total)
	}
	return n, err
}

// sizeOf is a file's size, 0 if it does not exist.
func sizeOf(name string) int64 {
	info, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return info.Size()
}

// hashFile is a hash of a file in lower-case hex.
func hashFile(name string, h hash.Hash) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
