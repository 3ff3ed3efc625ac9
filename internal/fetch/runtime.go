package fetch

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
)

// maxArchiveBytes and maxLibraryBytes bound what is written to disk.
const (
	maxArchiveBytes = 256 << 20
	maxLibraryBytes = 256 << 20
)

// Archive is a gzipped tar that holds the library.
type Archive struct {
	URL     string // where it lies, or empty
	Package string // what `npm pack` gets when there is no URL: name@version
	SHA256  string // of the archive, lower-case hex
	Member  string // the library's path inside, a pattern of [path.Match]: the first regular file is it
}

// Archives lists the archives that hold ONNX Runtime for a platform, best
// first. It is empty if none is published.
func Archives(goos, goarch string) []Archive {
	const (
		release = "https://github.com/microsoft/onnxruntime/releases/download/v" + RuntimeVersion + "/"
		node    = "onnxruntime-node@" + RuntimeVersion
		nodeSum = "c3779c01c59832f8c03e2c392ac3af10bf08579f1822e8b1c63cc451edb302a2"
		bin     = "package/bin/napi-v6/"
	)
	pair := func(name, sum, member, nodeMember string) []Archive {
		return []Archive{
			{URL: release + name + ".tgz", SHA256: sum, Member: name + "/lib/" + member},
			{Package: node, SHA256: nodeSum, Member: bin + nodeMember},
		}
	}
	// A release has several names for one file; all but one are links.
	const so, dylib = "libonnxruntime.so*", "libonnxruntime.*dylib"
	switch goos + "/" + goarch {
	case "linux/amd64":
		return pair("onnxruntime-linux-x64-"+RuntimeVersion, "547e40a48f1fe73e3f812d7c88a948612c23f896b91e4e2ee1e232d7b468246f",
			so, "linux/x64/"+so)
	case "linux/arm64":
		return pair("onnxruntime-linux-aarch64-"+RuntimeVersion, "3e4d83ac06924a32a07b6d7f91ce6f852876153fc0bbdf931bf517a140bfbe48",
			so, "linux/arm64/"+so)
	case "darwin/arm64":
		return pair("onnxruntime-osx-arm64-"+RuntimeVersion, "545e81c58152353acb0d1e8bd6ce4b62f830c0961f5b3acfedc790ffd76e477a",
			dylib, "darwin/arm64/"+dylib)
	}
	return nil
}

// ONNXRuntime puts the ONNX Runtime library of this platform into dir, as
// [RuntimeFile], and returns its path. It does nothing when the library is
// there already. The error lists everything that was tried and says what to
// do instead.
func ONNXRuntime(ctx context.Context, dir string, progress Progress) (string, error) {
	c := NewClient()
	defer c.HTTP.CloseIdleConnections()
	return c.Library(ctx, Archives(runtime.GOOS, runtime.GOARCH), dir, progress)
}

// Library puts the library from the first archive that can be downloaded into
// dir, as [RuntimeFile], and returns its path. It opens only archives with the
// right hash, and keeps only the library.
func (c *Client) Library(ctx context.Context, archives []Archive, dir string, progress Progress) (string, error) {
	const op = "fetch.ONNXRuntime"
	library := filepath.Join(dir, RuntimeFile())
	if _, err := os.Stat(library); err == nil {
		return library, nil // it was checked before it got its name
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", face.Wrap(face.Internal, op, err)
	}
	var tried []error
	for _, a := range archives {
		err := c.libraryOf(ctx, a, library, progress)
		if err == nil {
			return library, nil
		}
		if ctx.Err() != nil {
			return "", face.Wrap(face.Canceled, op, ctx.Err())
		}
		tried = append(tried, err)
	}
	if len(archives) == 0 {
		tried = append(tried, errors.New("no archive is published for this platform"))
	}
	return "", &face.Error{Kind: face.Unavailable, Op: op, Err: errors.Join(tried...), Detail: fmt.Sprintf(
		"cannot get ONNX Runtime %s for %s/%s; put the library of its release archive at %s, or set LIKENESS_ORT_LIBRARY to its path",
		RuntimeVersion, runtime.GOOS, runtime.GOARCH, library)}
}

func (c *Client) libraryOf(ctx context.Context, a Archive, library string, progress Progress) (err error) {
	var archive string
	if a.URL != "" {
		archive = filepath.Join(filepath.Dir(library), path.Base(a.URL))
		err = c.Get(ctx, File{URL: a.URL, SHA256: a.SHA256, MaxBytes: maxArchiveBytes}, archive, progress)
	} else {
		var tmp string
		if tmp, err = os.MkdirTemp(filepath.Dir(library), "npm-*"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
		archive, err = npmPack(ctx, a, tmp)
	}
	if err != nil {
		return err
	}
	return errors.Join(extract(archive, a.Member, library), os.Remove(archive))
}

// npmPack downloads a package from the npm registry and checks its hash. A
// mirror of the registry may be reachable where the release pages are not.
func npmPack(ctx context.Context, a Archive, dir string) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("npm pack %s: %w", a.Package, err) }
	cmd := exec.CommandContext(ctx, "npm", "pack", a.Package, "--ignore-scripts", "--loglevel=error", "--pack-destination", dir)
	var out bytes.Buffer
	cmd.Stderr = &out
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		text := bytes.TrimSpace(out.Bytes())
		return fail(fmt.Errorf("%w: %s", err, text[:min(len(text), 500)]))
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(found) != 1 {
		return fail(errors.Join(err, fmt.Errorf("it left %d archives", len(found))))
	}
	sum, err := hashFile(found[0], sha256.New())
	if err != nil {
		return fail(err)
	}
	if sum != a.SHA256 {
		return fail(fmt.Errorf("SHA-256 is %s, want %s", sum, a.SHA256))
	}
	return found[0], nil
}

// extract puts one member of a gzipped tar at dst, which appears in one step.
func extract(archive, member, dst string) (err error) {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(archive), err)
	}
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: no %s in it", filepath.Base(archive), member)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(archive), err)
		}
		if found, err := path.Match(member, path.Clean(h.Name)); err != nil {
			return err
		} else if !found || h.Typeflag != tar.TypeReg {
			continue
		}
		if h.Size > maxLibraryBytes {
			return fmt.Errorf("%s: %s has %d bytes", filepath.Base(archive), member, h.Size)
		}
		return writeWhole(r, dst)
	}
}

// writeWhole writes a file under a temporary name and renames it when it is
// complete.
func writeWhole(r io.Reader, dst string) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(dst), filepath.Base(dst)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	_, err = io.Copy(tmp, r)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), dst)
}
