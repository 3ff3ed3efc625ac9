package orttest

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/likeness-id/likeness/internal/ort"
)

// Run runs the tests of a package whose examples need ONNX Runtime. An example
// cannot skip itself, so all are skipped, with a word about it, where there is
// no library. In CI, which has one, they fail instead.
func Run(m *testing.M) int {
	flag.Parse()
	if _, err := ort.Find(); err != nil && os.Getenv("CI") == "" {
		fmt.Fprintln(os.Stderr, "the examples are skipped: they need ONNX Runtime:", err)
		if err := flag.Set("test.skip", "^Example"); err != nil {
			panic(err)
		}
	}
	return m.Run()
}
