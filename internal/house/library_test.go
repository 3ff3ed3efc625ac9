package house_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/sharedtest"
)

// excluded are the modules, and our own packages, that a Go program which uses
// pkg/likeness must never link: those of the server and of measurements.
func excluded() []string {
	return []string{
		"github.com/alecthomas/kong",
		"github.com/getkin/kin-openapi",
		"github.com/go-chi/chi/v5",
		"github.com/go-chi/cors",
		"github.com/go-chi/httprate",
		"github.com/jackc/pgx/v5",
		"github.com/nats-io/nats.go",
		"github.com/oapi-codegen/runtime",
		"github.com/pgvector/pgvector-go",
		"github.com/pressly/goose/v3",
		"github.com/prometheus/client_golang",
		"github.com/riverqueue/river",
		"github.com/swaggest/swgui",
		"gonum.org/v1/gonum",
		"modernc.org/sqlite",
		module + "/api",
		module + "/cmd",
		module + "/migrations",
		module + "/pkg/app",
		module + "/pkg/client",
		module + "/pkg/handlers",
		module + "/pkg/identity",
		module + "/pkg/jobs",
		module + "/pkg/measure",
		module + "/pkg/store",
	}
}

// TestLibrary holds that pkg/likeness, and what can be used beside it, links
// nothing of the server.
func TestLibrary(t *testing.T) {
	t.Parallel()
	for _, p := range list(t, "-deps", "-tags", "turbojpeg", "./pkg/likeness", "./pkg/embed", "./pkg/index", "./pkg/match") {
		checkLibrary(t, p.ImportPath)
	}
}

// TestPublicTypes holds that what a package under pkg/ exports can be used from
// another module: no type of internal/ is part of it. The rooms that keep disk
// space free take such a type in one option, which is nil for everybody else.
func TestPublicTypes(t *testing.T) {
	t.Parallel()
	may := map[string]string{"pkg/store/sqlite": "internal/ballast", "pkg/jobs": "internal/ballast", "pkg/app": "internal/ballast"}
	root := sharedtest.Root(t)
	for _, p := range list(t, "./pkg/...") {
		room := strings.TrimPrefix(p.ImportPath, module+"/")
		if strings.HasSuffix(room, "test") {
			continue
		}
		for _, name := range p.GoFiles {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(root, filepath.FromSlash(room), name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			internal := map[string]string{} // path by the name it has in the file
			for _, i := range file.Imports {
				imported := strings.TrimPrefix(strings.Trim(i.Path.Value, `"`), module+"/")
				if strings.HasPrefix(imported, "internal/") && imported != may[room] {
					internal[path.Base(imported)] = imported
				}
			}
			ast.FileExports(file)
			for _, d := range file.Decls {
				ast.Inspect(d, func(n ast.Node) bool {
					switch n := n.(type) {
					case *ast.BlockStmt:
						return false // of a function: nobody outside sees it
					case *ast.FuncDecl:
						return n.Recv == nil || ast.IsExported(receiver(n.Recv.List[0].Type))
					case *ast.SelectorExpr:
						if from, ok := n.X.(*ast.Ident); ok && internal[from.Name] != "" {
							t.Errorf("%s: the public API names %s.%s of %s, which another module cannot import", fset.Position(n.Pos()), from.Name, n.Sel.Name, internal[from.Name])
						}
					}
					return true
				})
			}
		}
	}
}

// receiver is the name of a method's type.
func receiver(t ast.Expr) string {
	switch t := t.(type) {
	case *ast.StarExpr:
		return receiver(t.X)
	case *ast.IndexExpr:
		return receiver(t.X)
	case *ast.Ident:
		return t.Name
	}
	return ""
}

// checkLibrary refuses a package that a user of the library must not link.
func checkLibrary(t *testing.T, linked string) {
	t.Helper()
	for _, out := range excluded() {
		if linked == out || strings.HasPrefix(linked, out+"/") {
			t.Errorf("pkg/likeness links %s: a program that compares photos needs nothing of %s", linked, out)
		}
	}
}

// TestOutside builds and runs a program of another module, as somebody who
// uses the library does.
func TestOutside(t *testing.T) {
	t.Parallel()
	root, dir := sharedtest.Root(t), t.TempDir()
	read := func(path ...string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(path...))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	// It requires what this module requires, all of which is on this machine
	// already, so that nothing is downloaded.
	_, requires, _ := strings.Cut(read(root, "go.mod"), "\n")
	for name, text := range map[string]string{
		"main.go": read("testdata", "outside", "main.go"),
		"go.sum":  read(root, "go.sum"),
		"go.mod":  "module example.com/outside\n" + requires + "\nrequire " + module + " v0.0.0\nreplace " + module + " => " + root + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
		}
		return string(out)
	}
	for linked := range strings.FieldsSeq(run("go", "list", "-deps", ".")) {
		checkLibrary(t, linked)
	}
	run("go", "build", "-o", "outside", ".")
	orttest.Library(t) // the program finds it by itself, or there is none
	faces := filepath.Join(root, "internal", "testfaces")
	out := run(filepath.Join(dir, "outside"), filepath.Join(faces, "person-1-1.jpg"), filepath.Join(faces, "person-1-2.jpg"))
	if want := "match: true\nfound: ada match\n"; out != want {
		t.Errorf("the program says %q, want %q", out, want)
	}
}
