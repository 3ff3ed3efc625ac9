package ort

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	"github.com/likeness-id/likeness/internal/fetch"
	"github.com/likeness-id/likeness/pkg/face"
)

// LibraryEnv names the environment variable that holds the library's path.
const LibraryEnv = "LIKENESS_ORT_LIBRARY"

// minMinor is the least ONNX Runtime 1.x whose C API the binding speaks.
const minMinor = 24

// Find looks for the ONNX Runtime library: the file that LIKENESS_ORT_LIBRARY
// names, the loader's search path and the system's library folders, then the
// cache that `likeness runtime pull` fills. It skips system libraries whose
// file names show that they are too old.
//
// If LIKENESS_ORT_LIBRARY is set, Find looks nowhere else. The error is
// Unavailable and says what to do.
func Find() (string, error) {
	const op = "ort.Find"
	if p := os.Getenv(LibraryEnv); p != "" {
		if info, err := os.Stat(p); err != nil || info.IsDir() {
			return "", face.Errorf(face.Unavailable, op, "%s names %s, which is not a file", LibraryEnv, p)
		}
		return p, nil
	}
	var old []string
	for _, dir := range systemDirs() {
		if !filepath.IsAbs(dir) {
			continue // an empty part of a search path would mean the working folder
		}
		for _, name := range libraryNames() {
			p := filepath.Join(dir, name)
			real, err := filepath.EvalSymlinks(p)
			if err != nil {
				continue
			}
			if tooOld(filepath.Base(real)) {
				old = append(old, real)
				continue
			}
			return p, nil
		}
	}
	cache, err := fetch.RuntimeDir()
	if err == nil {
		p := filepath.Join(cache, fetch.RuntimeFile())
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	detail := fmt.Sprintf("no ONNX Runtime library found: run `likeness runtime pull`, which fetches %s into %s, or set %s to a libonnxruntime of version 1.%d or newer",
		fetch.RuntimeVersion, cache, LibraryEnv, minMinor)
	if len(old) > 0 {
		detail += "; passed over as too old: " + strings.Join(old, ", ")
	}
	return "", &face.Error{Kind: face.Unavailable, Op: op, Detail: detail, Err: err}
}

// systemDirs are the folders that a loader searches, the most specific first.
func systemDirs() []string {
	if runtime.GOOS == "darwin" {
		return append(filepath.SplitList(os.Getenv("DYLD_LIBRARY_PATH")),
			"/opt/homebrew/lib", "/usr/local/lib", "/usr/lib")
	}
	triplet := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	return append(filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")),
		"/usr/local/lib", "/usr/local/lib64",
		"/usr/lib/"+triplet, "/lib/"+triplet,
		"/usr/lib64", "/usr/lib", "/lib64", "/lib")
}

func libraryNames() []string {
	if runtime.GOOS == "darwin" {
		return []string{"libonnxruntime.dylib", "libonnxruntime.1.dylib"}
	}
	return []string{"libonnxruntime.so", "libonnxruntime.so.1"}
}

// tooOld reports whether a file name carries a version below the least one:
// libonnxruntime.so.1.21.0. A name without a version says nothing.
func tooOld(name string) bool {
	v := regexp.MustCompile(`\.1\.(\d+)`).FindStringSubmatch(name)
	if v == nil {
		return false
	}
	minor, err := strconv.Atoi(v[1])
	return err == nil && minor < minMinor
}
