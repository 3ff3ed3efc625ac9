// Package killtest says how often tests kill what must lose nothing.
package killtest

import (
	"os"
	"strconv"
	"testing"
)

// Kills is how many kills a test is to survive: LIKENESS_TEST_KILLS, which
// `make kills` sets, or, where that is not set, so many that CI stays quick.
func Kills(tb testing.TB, otherwise int) int {
	tb.Helper()
	said := os.Getenv("LIKENESS_TEST_KILLS")
	if said == "" {
		return otherwise
	}
	n, err := strconv.Atoi(said)
	if err != nil || n < 1 {
		tb.Fatalf("LIKENESS_TEST_KILLS is %q, not a number from 1 on", said)
	}
	return n
}
