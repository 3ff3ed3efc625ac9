// Package clients_test proves that clients can be generated from the contract
// by generators that know nothing of ours.
package clients_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/internal/sharedtest"
)

// TestGo builds a client that oapi-codegen makes of the contract, with no
// overlay and no option but what to make.
func TestGo(t *testing.T) {
	t.Parallel()
	root, dir := sharedtest.Root(t), t.TempDir()
	code := filepath.Join(dir, "client.go")
	run(t, root, nil, "go", "tool", "-modfile="+filepath.Join(root, "tools", "go.mod"), "oapi-codegen",
		"-generate", "types,client", "-package", "client", "-o", code, contract(t, dir))

	// The client is built as a package of this module, for the modules that it
	// imports, though nothing is written into it: neither the file nor go.mod.
	overlay, err := json.Marshal(map[string]map[string]string{
		"Replace": {filepath.Join(root, "api", "clients", "plain", "client.go"): code},
	})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "overlay.json"), overlay)
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), b)
	}
	run(t, root, nil, "go", "build", "-mod=mod", "-modfile="+filepath.Join(dir, "go.mod"),
		"-overlay="+filepath.Join(dir, "overlay.json"), "./api/clients/plain")
}

// TestTypeScript checks a program that calls the service with types that
// openapi-typescript makes of the contract. It needs npm, which gets the
// packages of the lockfile.
func TestTypeScript(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("npm"); err != nil {
		sharedtest.Missing(t, "npm, to check the TypeScript client")
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("typescript")); err != nil {
		t.Fatal(err)
	}
	contract(t, dir)
	env := append(os.Environ(), "NO_UPDATE_NOTIFIER=1", "npm_config_update_notifier=false")
	run(t, dir, env, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	run(t, dir, env, "npm", "run", "--silent", "generate")
	run(t, dir, env, "npm", "run", "--silent", "check")
}

// contract writes what GET /openapi.yaml answers into a folder.
func contract(t *testing.T, dir string) string {
	t.Helper()
	name := filepath.Join(dir, "openapi.yaml")
	write(t, name, []byte(api.Contract()))
	return name
}

func write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, dir string, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}
