package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/pkg/face"
)

// childEnv makes the test binary the tool itself, to be killed.
const childEnv = "LIKENESS_TEST_TOOL"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(runCommand(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(pgtest.M{M: m})
}

// result is what a call of the command left.
type result struct {
	code           int
	stdout, stderr string
}

func runTool(ctx context.Context, args ...string) result {
	var stdout, stderr bytes.Buffer
	code := runCommand(ctx, args, &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

// Every command explains itself, and a call that cannot be meant is told so.
func TestUsage(t *testing.T) {
	t.Parallel()
	for _, command := range []string{
		"", "keys", "keys create", "keys list", "keys revoke", "models list", "models pull", "models verify", "models convert", "models manifest", "models migrate", "models status",
		"runtime path", "runtime pull", "enrol", "eval", "calibrate", "train", "inspect", "style",
		"export", "import", "audit verify", "audit list", "store check", "migrate-store",
		"bench-search", "search-graph", "search-graph build", "search-graph list", "search-graph drop",
	} {
		got := runTool(t.Context(), append(strings.Fields(command), "--help")...)
		if got.code != exitOK || !strings.Contains(got.stdout, "Usage: likeness "+command) || got.stderr != "" {
			t.Errorf("%s --help: %+v", command, got)
		}
	}
	if got := runTool(t.Context()); got.code != exitOK || !strings.Contains(got.stdout, "Commands:") {
		t.Errorf("no arguments: %+v", got)
	}
	if got := runTool(t.Context(), "--version"); got.code != exitOK || got.stdout != version+"\n" {
		t.Errorf("--version: %+v", got)
	}

	here := t.TempDir()
	for _, tt := range []struct{ args, says string }{
		{"nonsense", "nonsense"},
		{"keys create --data-dir=" + here, "--name"},
		{"keys create --name=x --scopes=verify,fly --data-dir=" + here, `"fly" is none of verify`},
		{"keys create --name=x --scopes=verify --expires=soon --data-dir=" + here, `"soon" is not a lifetime`},
		{"keys create --name=x --scopes=verify --tenant=../up --data-dir=" + here, "--tenant"},
		{"eval --pairs=" + here + "/none --images=" + here, "none"},
		{"eval", "--images"},
		{"calibrate", "--images"},
		{"calibrate --face=prettiest --images=" + here, "--face"},
		{"enrol " + here, "one sub-folder per subject"},
		{"enrol --server=ftp://example.org " + here, "--server"},
		{"enrol --gallery=../up " + here, "--gallery"},
		{"enrol --parallel=0 " + here, "--parallel"},
		{"export ../up", "no name of a gallery"},
		{"export --server=ftp://example.org default", "--server"},
		{"import default " + here + "/none", "none"},
		{"import --from-line=-1 default main.go", "--from-line"},
		{"audit list --since=soon --data-dir=" + here, `"soon" is not a time`},
		{"audit verify --database-url=redis://u:secret@h", "redis is not a store"},
		{"migrate-store sqlite:" + here + "/a sqlite:" + here + "/a", "same store"},
		{"migrate-store sqlite:" + here + "/a", "expected"},
		{"models migrate", "id"},
		{"models migrate ../up", "model id"},
		{"models migrate sface --gallery=../up", "--gallery"},
		{"models migrate sface --server=ftp://example.org", "--server"},
		{"models migrate sface --wait --cancel", "--wait"},
		{"bench-search", "--database-url"},
		{"bench-search --database-url=sqlite:x.db", "is not a Postgres"},
		{"bench-search --clients=0 --database-url=postgres://h/d", "--clients"},
		{"bench-search --probes=0 --database-url=postgres://h/d", "--probes"},
		{"bench-search --seconds=0 --database-url=postgres://h/d", "--seconds"},
		{"search-graph build --database-url=sqlite:x.db", "is not a Postgres"},
		{"models pull nonsense", `likeness: no model "nonsense"`},
	} {
		got := runTool(t.Context(), strings.Fields(tt.args)...)
		if got.code != exitUsage || got.stdout != "" || !strings.Contains(got.stderr, tt.says) {
			t.Errorf("%s: %+v, want it to say %q", tt.args, got, tt.says)
		}
	}
}

func TestModelsList(t *testing.T) {
	t.Parallel()
	got := runTool(t.Context(), "models", "list", "--data-dir", t.TempDir(), "--models-dir", t.TempDir())
	if got.code != exitOK || !strings.Contains(got.stdout, "likeness models pull sface") || !strings.Contains(got.stdout, "mobileface-v2") {
		t.Errorf("%+v", got)
	}
	if got := runTool(t.Context(), "models", "verify", "--data-dir", t.TempDir(), "--models-dir", t.TempDir()); got.code != exitOK ||
		!strings.Contains(got.stdout, "ok\tbuiltin-encoder\tbuilt in\n") {
		t.Errorf("what is built in: %+v", got)
	}
	if got := runTool(t.Context(), "models", "pull", "builtin-encoder", "--data-dir", t.TempDir()); got.code != exitOK || !strings.Contains(got.stderr, "built in") {
		t.Errorf("a model that is built in: %+v", got)
	}
	if got := runTool(t.Context(), "models", "pull", "mobileface-v2", "--data-dir", t.TempDir(), "--models-dir", t.TempDir()); got.code != exitFailed ||
		!strings.Contains(got.stderr, "source") {
		t.Errorf("a model without an address: %+v", got)
	}
}

func TestProgressWithoutTerminal(t *testing.T) {
	t.Parallel()
	var out, results bytes.Buffer
	p := newProgress(&out, "counting", 25, false)
	for i := range 25 {
		p.Add(1)
		if i == 4 {
			p.Print(&results, "five of %s", "them")
		}
	}
	p.Close()
	if lines := strings.Count(out.String(), "\n"); lines != 10 || !strings.HasSuffix(out.String(), "counting: 25 of 25 (100 %)\n") {
		t.Errorf("%d lines:\n%s", lines, out.String())
	}
	if results.String() != "five of them\n" {
		t.Errorf("results: %q", results.String())
	}

	out.Reset()
	p = newProgress(&out, "unknown size", 0, true)
	p.Set(10)
	p.Close()
	if out.Len() > 0 {
		t.Errorf("of an unknown whole: %q", out.String())
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	cause := errors.New("disk full")
	for _, tt := range []struct {
		err  error
		want string
	}{
		{cause, "disk full"},
		{face.Errorf(face.NotFound, "op", "no such thing"), "no such thing"},
		{errors.Join(face.Errorf(face.NotFound, "op", "no such thing")), "no such thing"},
		{face.Wrap(face.Internal, "op", cause), "disk full"},
		{&face.Error{Kind: face.Unavailable, Op: "op", Detail: "cannot write", Err: cause}, "cannot write: disk full"},
		{&face.Error{Kind: face.Unavailable, Op: "op", Detail: "cannot write: disk full", Err: cause}, "cannot write: disk full"},
		{&face.Error{Kind: face.Invalid, Op: "op", Fields: []face.FieldError{{Pointer: "/id", Detail: "missing"}}}, "/id: missing"},
		{&face.Error{Kind: face.Overloaded, Op: "op"}, "Overloaded"},
		{fmt.Errorf("--x: %w", face.Errorf(face.Invalid, "op", "wrong")), "--x: op: invalid_request: wrong"},
		{fmt.Errorf("reading: %w", context.Canceled), "stopped before the end"},
	} {
		if got := explain(tt.err); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.err, got, tt.want)
		}
	}
}
