package fetch

import (
	"os"
	"path/filepath"
	"runtime"
)

// RuntimeVersion is the version of ONNX Runtime that [ONNXRuntime] gets.
const RuntimeVersion = "1.27.0"

// RuntimeDir is the folder that keeps the fetched ONNX Runtime of this
// platform: onnxruntime/<version>/<os>-<arch> under LIKENESS_CACHE_DIR, or
// under likeness in the user's cache folder.
func RuntimeDir() (string, error) {
	cache := os.Getenv("LIKENESS_CACHE_DIR")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(user, "likeness")
	}
	return filepath.Join(cache, "onnxruntime", RuntimeVersion, runtime.GOOS+"-"+runtime.GOARCH), nil
}

// RuntimeFile is the library's base name on this platform.
func RuntimeFile() string {
	if runtime.GOOS == "darwin" {
		return "libonnxruntime.dylib"
	}
	return "libonnxruntime.so.1"
}
