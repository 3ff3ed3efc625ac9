package inspect_test

import (
	"os"
	"testing"

	"github.com/likeness-id/likeness/internal/ort/orttest"
)

func TestMain(m *testing.M) {
	orttest.SkipExamples()
	os.Exit(m.Run())
}
