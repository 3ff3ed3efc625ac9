package likeness

import (
	"context"

	"github.com/likeness-id/likeness/internal/fetch"
)

// FetchRuntime downloads the shared library of ONNX Runtime into the user's
// cache, where [Open] finds it from then on, and returns its path. The release
// is pinned: its SHA-256 is checked before anything of it is kept. When it is in
// the cache already, nothing is downloaded. It is what `likeness runtime pull`
// does.
//
// progress, which may be nil, is told how many bytes are there and how many
// there will be (0: that is not known). Unavailable: nobody publishes ONNX
// Runtime for this platform (there is linux/amd64, linux/arm64 and
// darwin/arm64), or it cannot be downloaded; the detail says what to do instead.
func FetchRuntime(ctx context.Context, progress func(done, total int64)) (path string, err error) {
	dir, err := fetch.RuntimeDir()
	if err != nil {
		return "", err
	}
	return fetch.ONNXRuntime(ctx, dir, progress)
}
