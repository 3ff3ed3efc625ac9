package move

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/likeness-id/likeness/internal/ort/orttest"
)

func TestMain(m *testing.M) {
	orttest.SkipExamples()
	goleak.VerifyTestMain(m)
}
