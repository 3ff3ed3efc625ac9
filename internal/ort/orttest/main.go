package orttest

import (
	"flag"
	"fmt"
	"os"

	"github.com/likeness-id/likeness/internal/ort"
)

// SkipExamples skips the examples of a package where there is no ONNX Runtime,
// and says so, because an example cannot skip itself. In CI, which has one, they
// run and fail. It is called first in TestMain.
func SkipExamples() {
	flag.Parse()
	_, err := ort.Find()
	if err == nil || os.Getenv("CI") != "" {
		return
	}
	fmt.Fprintln(os.Stderr, "the examples are skipped: they need ONNX Runtime:", err)
	if err := flag.Set("test.skip", "^Example"); err != nil {
		panic(err)
	}
}
