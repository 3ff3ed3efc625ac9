package house_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/likeness-id/likeness/internal/sharedtest"
)

// made returns the paths, relative to the root, that the commands of a README
// name and that the checkout does not have: files that its readers make or
// bring.
func made(t *testing.T, readme string) []string {
	t.Helper()
	// Shell blocks and inline code; what can only be a relative path, by its
	// extension or the slash at its end; options and signs that a path comes after.
	commands := regexp.MustCompile("(?ms)^```sh\n(.*?)^```$|`([^`\n]+)`")
	relative := regexp.MustCompile(`^\w[\w./-]*(\.[a-z]+|/)$`)
	results := []string{">", "-o", "--out", "--run", "--write", "--html", "--sheet"}

	root := sharedtest.Root(t)
	text, err := os.ReadFile(filepath.Join(root, readme))
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, m := range commands.FindAllStringSubmatch(string(text), -1) {
		before := ""
		for word := range strings.FieldsSeq(m[1] + m[2]) {
			word = strings.Trim(word[strings.LastIndexAny(word, "=@")+1:], `"'();`)
			if relative.MatchString(word) || slices.Contains(results, before) {
				name := path.Join(path.Dir(readme), word)
				if _, err := os.Stat(filepath.Join(root, name)); errors.Is(err, fs.ErrNotExist) {
					paths = append(paths, name)
				}
			}
			before = word
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// Files that readers of the READMEs make, such as keys and exports, must not
// get into a commit or an image.
func TestWhatPeopleMakeIsIgnored(t *testing.T) {
	t.Parallel()
	// Git and Docker see the paths as in a fresh clone.
	clone := t.TempDir()
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", clone, "-c", "core.excludesFile="}, args...)...)
		out, err := cmd.Output()
		return string(out), err
	}
	if _, err := git("init", "-q"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".gitignore", "deploy/.gitignore"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(clone, path.Dir(name)), 0o755),
			os.WriteFile(filepath.Join(clone, name), source(t, name), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	docker := dockerignore(t)
	for readme, some := range map[string][]string{
		"README.md":        {"crop.key", "people.ndjson", "run", "models-of-yours/ours.json", "strangers"},
		"deploy/README.md": {"deploy/backups/likeness.dump", "deploy/secrets/metrics_key"},
	} {
		paths := made(t, readme)
		for _, name := range some {
			if !slices.Contains(paths, name) {
				t.Errorf("%s: %s was not found in %q", readme, name, paths)
			}
		}
		for _, name := range paths {
			inside := path.Join(name, "x") // in case it is a folder
			if _, err := git("check-ignore", name, inside); err != nil {
				t.Errorf("%s tells people to make %s, which .gitignore lets into a commit", readme, name)
			}
			if ignored, err := docker.MatchesOrParentMatches(name); err != nil || !ignored {
				t.Errorf("%s tells people to make %s, which .dockerignore lets into the image's layers (%v)", readme, name, err)
			}
		}
	}
}

// A key or an export beside the code is left out of the image, and everything
// that the image is built from is included.
func TestDockerignore(t *testing.T) {
	t.Parallel()
	docker := dockerignore(t)
	needed := []string{"go.mod", "go.sum"}
	for _, p := range list(t, "-deps", "-tags", "turbojpeg", "./cmd/server", "./cmd/likeness") {
		if room, ours := strings.CutPrefix(p.ImportPath, module+"/"); ours {
			for _, files := range [][]string{p.GoFiles, p.CgoFiles, p.SFiles, p.EmbedFiles} {
				for _, f := range files {
					needed = append(needed, path.Join(room, f))
				}
			}
		}
	}
	var left []string
	for _, name := range needed {
		if ignored, err := docker.MatchesOrParentMatches(name); err != nil || ignored {
			left = append(left, name)
		}
	}
	if diff := cmp.Diff([]string(nil), left); diff != "" || len(needed) < 100 {
		t.Errorf("of %d files that the image is built of, .dockerignore leaves out:\n%s", len(needed), diff)
	}
	for _, name := range []string{".git/config", "cmd/server/crop.key", "models/people.ndjson", "api/likeness.db-wal", "data/likeness.db", "crop2.key", "notes"} {
		if ignored, err := docker.MatchesOrParentMatches(name); err != nil || !ignored {
			t.Errorf("%s gets into the image's layers (%v)", name, err)
		}
	}
}

func source(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(sharedtest.Root(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func dockerignore(t *testing.T) *patternmatcher.PatternMatcher {
	t.Helper()
	patterns, err := ignorefile.ReadAll(strings.NewReader(string(source(t, ".dockerignore"))))
	if err != nil {
		t.Fatal(err)
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
