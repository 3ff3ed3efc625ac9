// Package killtest says how often tests kill processes that must not lose data.
package killtest

import (
	"os"
	"strconv"
	"testing"
)

// Kills is how many kills a test must survive: LIKENESS_TEST_KILLS, which `make
// kills` sets, or otherwise, a number that keeps CI quick.
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
