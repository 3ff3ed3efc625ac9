// Package house_test checks the architecture: which package may import which,
// and which third-party modules are linked.
package house_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/sharedtest"
)

const module = "github.com/likeness-id/likeness"

// rooms lists, for each package ("room"), the other packages that its code, but
// not its tests, may import. A package that is not listed fails the test,
// because a new package is a decision. Imports point down only.
func rooms() map[string][]string {
	return map[string][]string{
		"pkg/face":            {},
		"pkg/imaging":         {"pkg/face"},
		"pkg/embed":           {"pkg/face", "pkg/imaging"},
		"pkg/match":           {"pkg/face"},
		"pkg/measure":         {"pkg/face", "pkg/match"},
		"pkg/index":           {"pkg/face"},
		"pkg/grad":            {"pkg/face", "pkg/grad/onnxpb"},
		"pkg/grad/onnxpb":     {},
		"pkg/style":           {"pkg/face", "pkg/grad", "pkg/imaging"},
		"pkg/siamese":         {"pkg/face", "pkg/grad", "pkg/imaging"},
		"pkg/inspect":         {"pkg/face", "pkg/grad"},
		"pkg/store":           {"pkg/face"},
		"pkg/store/storetest": {"pkg/face", "pkg/store"},
		"pkg/store/sqlite":    {"internal/ballast", "internal/sqlitedb", "pkg/face", "pkg/index", "pkg/store", "migrations"},
		"pkg/store/postgres":  {"internal/pgdb", "pkg/face", "pkg/index", "pkg/store"},
		"migrations":          {},
		"models":              {},
		"api":                 {"pkg/face"},
		"api/clients":         {}, // tests of generated clients
		"internal/ballast":    {},
		"internal/fetch":      {"pkg/face"},
		"internal/pgdb":       {"pkg/face", "migrations"},
		"internal/photos":     {},
		"internal/sqlitedb":   {"internal/ballast", "pkg/face"},
		"internal/seal":       {"pkg/face"},
		"internal/spelling":   {},
		"internal/openvino":   {"pkg/face", "pkg/grad", "pkg/grad/onnxpb"},
		"internal/ort":        {"internal/fetch", "pkg/face", "pkg/embed", "pkg/grad", "pkg/grad/onnxpb"},
		"internal/house":      {},
		"internal/artwork":    {},
		"internal/conditions": {"pkg/face", "pkg/imaging"},
		"internal/searchload": {"pkg/face"},
		"internal/series":     {"pkg/face"},
		"internal/smalldisk":  {"internal/sharedtest"},
		"internal/testfaces":  {},
		"pkg/jobs":            {"internal/ballast", "internal/pgdb", "internal/sqlitedb", "pkg/face", "pkg/imaging", "pkg/store", "pkg/style", "migrations"}, // pkg/store: pages and their cursors
		"pkg/identity":        {"pkg/embed", "pkg/face", "pkg/match", "pkg/store"},
		"pkg/move":            {"internal/seal", "pkg/embed", "pkg/face", "pkg/identity", "pkg/match", "pkg/store"},
		"pkg/handlers":        {"api", "pkg/face", "pkg/identity", "pkg/imaging", "pkg/embed", "pkg/jobs", "pkg/move", "pkg/store", "pkg/style"},
		"pkg/likeness":        {"internal/fetch", "internal/ort", "models", "pkg/embed", "pkg/face", "pkg/grad", "pkg/imaging", "pkg/index", "pkg/match", "pkg/style"},
		"pkg/app": {
			"internal/ballast", "internal/pgdb", "pkg/embed", "pkg/face", "pkg/handlers", "pkg/identity", "pkg/imaging",
			"pkg/jobs", "pkg/likeness", "pkg/match", "pkg/move", "pkg/store", "pkg/store/postgres", "pkg/store/sqlite", "pkg/style",
		},
		"internal/testfaces/generate": {
			"internal/artwork", "internal/photos", "pkg/embed", "pkg/face", "pkg/imaging", "pkg/likeness",
		},
		"cmd/server": {"internal/spelling", "pkg/app"},
		"pkg/client": {}, // a program that calls a server links nothing of it
		"cmd/likeness": {
			"internal/conditions", "internal/fetch", "internal/openvino", "internal/ort", "internal/photos", "internal/searchload", "internal/series", "internal/spelling", "models", "pkg/app", "pkg/client", "pkg/embed",
			"pkg/face", "pkg/grad", "pkg/imaging", "pkg/inspect", "pkg/likeness", "pkg/match", "pkg/measure", "pkg/siamese", "pkg/store", "pkg/store/postgres", "pkg/store/sqlite", "pkg/style", "api",
		},
		"deploy":       {},
		"docs/gallery": {"internal/artwork"},
		"bench":        nil, // measures any room

		"models/recipe/crops":     {"internal/conditions", "internal/photos", "pkg/face", "pkg/imaging", "pkg/likeness"},
		"models/recipe/pairs":     {},
		"models/recipe/untrained": {"pkg/siamese"},
	}
}

// owners lists the only rooms that may import a third-party package.
func owners() map[string][]string {
	return map[string][]string{
		"github.com/yalue/onnxruntime_go": {"internal/ort"},
		"modernc.org/sqlite":              {"internal/sqlitedb"},
		"github.com/pressly/goose/v3":     {"internal/sqlitedb", "internal/pgdb"},
		"github.com/jackc/pgx/v5":         {"internal/pgdb", "pkg/store/postgres", "pkg/jobs", "bench"},
		"github.com/go-chi/chi/v5":        {"pkg/handlers", "api"},
		"github.com/alecthomas/kong":      {"cmd/server", "cmd/likeness", "internal/spelling", "bench"},
	}
}

type listed struct {
	ImportPath string
	Imports    []string
	Module     *struct{ Path string }
	Standard   bool

	GoFiles, CgoFiles, SFiles, EmbedFiles []string
}

func list(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Imports,Module,Standard,GoFiles,CgoFiles,SFiles,EmbedFiles"}, args...)...)
	cmd.Dir = sharedtest.Root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
}

func TestDeps(t *testing.T) {
	t.Parallel()
	rooms, owners := rooms(), owners()
	for _, p := range list(t, "-tags", "turbojpeg", "./...") {
		room := strings.TrimPrefix(p.ImportPath, module+"/")
		allowed, known := rooms[room]
		switch {
		case strings.HasSuffix(room, "test"): // helpers of tests import what they test
			continue
		case !known:
			t.Errorf("%s is not in rooms() of internal/house: decide what it may import", room)
			continue
		}
		for _, imported := range p.Imports {
			if to, ours := strings.CutPrefix(imported, module+"/"); ours && allowed != nil && !slices.Contains(allowed, to) {
				t.Errorf("%s must not import %s: rooms() of internal/house does not allow it", room, to)
			}
			for third, may := range owners {
				if (imported == third || strings.HasPrefix(imported, third+"/")) && !slices.Contains(may, room) {
					t.Errorf("%s imports %s, which only %v may import", room, imported, may)
				}
			}
			if room == "pkg/face" && strings.Contains(strings.Split(imported, "/")[0], ".") {
				t.Errorf("pkg/face imports %s: it stands on the standard library alone", imported)
			}
		}
	}
}

// TestServerMeasuresNothing keeps statistics out of the server: it applies what
// package measure found, and is smaller without gonum.
func TestServerMeasuresNothing(t *testing.T) {
	t.Parallel()
	for _, p := range list(t, "-deps", "-tags", "turbojpeg", "./cmd/server") {
		if p.ImportPath == module+"/pkg/measure" || strings.HasPrefix(p.ImportPath, "gonum.org/") {
			t.Errorf("the server links %s", p.ImportPath)
		}
	}
}

// TestModules compares modules.txt with the third-party modules that the two
// commands link. A new module is reviewed: add it to modules.txt with its
// licence and its purpose.
func TestModules(t *testing.T) {
	t.Parallel()
	linked := map[string]bool{}
	for _, p := range list(t, "-deps", "-tags", "turbojpeg", "./cmd/server", "./cmd/likeness") {
		if !p.Standard && p.Module != nil && p.Module.Path != module {
			linked[p.Module.Path] = true
		}
	}
	f, err := os.Open(filepath.Join(sharedtest.Root(t), "internal", "house", "modules.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	reviewed := map[string]bool{}
	for s := bufio.NewScanner(f); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 3 {
			t.Errorf("modules.txt: %q: want the module, its licence and what it is for", line)
		}
		reviewed[fields[0]] = true
	}
	if diff := cmp.Diff(reviewed, linked); diff != "" {
		t.Errorf("modules linked (-reviewed +linked):\n%s", diff)
	}
}
