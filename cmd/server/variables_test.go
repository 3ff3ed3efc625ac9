package main_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/likeness-id/likeness/internal/sharedtest"
)

// Server and tool are often started in one environment, so neither may warn
// about variables that the other, a script or a test reads.
func TestVariablesAreKnown(t *testing.T) {
	t.Parallel()
	root := sharedtest.Root(t)
	variable := regexp.MustCompile(`LIKENESS_[A-Z][A-Z_]*[A-Z]\b`)
	read := map[string]bool{}
	for _, dir := range []string{"cmd", "deploy", "internal", "pkg", "scripts", "Dockerfile", "Makefile"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, name := range variable.FindAll(text, -1) {
				read[string(name)] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	env := testEnvironment("LIKENESS_UNHEARD_OF=1")
	for name := range read {
		env = append(env, name+"=1")
	}
	for _, args := range [][]string{{"server", "--no-such-flag"}, {"likeness", "keys", "list", "--no-such-flag"}} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, args[0]), args[1:]...)
		cmd.Env = env
		out, _ := cmd.CombinedOutput()
		if n := strings.Count(string(out), "not a variable that Likeness knows"); n != 1 || !strings.Contains(string(out), "LIKENESS_UNHEARD_OF is not") {
			t.Errorf("%s warns of %d of %d variables and one unheard of: internal/spelling lacks somebody's\n%s", args[0], n, len(read), out)
		}
	}
}
