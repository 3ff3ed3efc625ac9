// Command likeness is the operator's tool: API keys, models and the ONNX
// Runtime, enrolment of a folder, and the measurements that decisions rest on.
//
// It exits with 0 when all went well, 1 when work failed, in part or whole,
// and 2 when it was called wrongly.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/likeness-id/likeness/internal/spelling"
	"github.com/likeness-id/likeness/pkg/app"
	"github.com/likeness-id/likeness/pkg/face"
)

// version is set by the linker.
var version = "dev"

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

type cli struct {
	Keys      keysCmd      `cmd:"" help:"Make, list and revoke API keys."`
	Models    modelsCmd    `cmd:"" help:"List, fetch and check models."`
	Runtime   runtimeCmd   `cmd:"" help:"Find or fetch ONNX Runtime, which runs the models."`
	Ready     readyCmd     `cmd:"" help:"Ask a running server whether it is ready: a health check."`
	Enrol     enrolCmd     `cmd:"" help:"Enrol a folder of photos with a running server, one sub-folder per subject."`
	Eval      evalCmd      `cmd:"" help:"Measure error rates on labelled pairs of photos."`
	Export    exportCmd    `cmd:"" help:"Write a gallery with its templates to a file, from a running server."`
	Import    importCmd    `cmd:"" help:"Import what export wrote, through a running server."`
	Audit     auditCmd     `cmd:"" help:"Check and list the audit chain of a store."`
	Backup    backupCmd    `cmd:"" help:"Copy the embedded store and its style-transfer jobs into a folder, beside a running server."`
	Restore   restoreCmd   `cmd:"" help:"Put a backup in the place of the embedded store, while no server runs."`
	Store     storeCmd     `cmd:"" help:"Look for what is wrong with a store, and say how to mend it."`
	Migrate   migrateCmd   `cmd:"" name:"migrate-store" help:"Copy a whole store into another one."`
	Train     trainCmd     `cmd:"" help:"Teach an encoder: adapt one to photos of yours, or begin from nothing."`
	Calibrate calibrateCmd `cmd:"" help:"Measure an encoder's impostor scores and name its operating points."`
	Inspect   inspectCmd   `cmd:"" help:"Show what the units of a model respond to: patches of photos, pictures that excite them, filters, statistics."`
	Style     styleCmd     `cmd:"" help:"Paint a picture in the style of others; or change a signal or a volume."`

	BenchSearch benchSearchCmd `cmd:"" help:"Measure recall and speed of the search engines on a gallery of yours, and say what to set."`
	SearchGraph searchGraphCmd `cmd:"" help:"Build, list and drop graphs for approximate search in Postgres."`

	Version kong.VersionFlag `help:"Print the version and leave."`
}

// tool is what every command works with.
type tool struct {
	ctx            context.Context
	stdout, stderr io.Writer
}

// usageError is a call that cannot be carried out as it was written.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() {
	// The first signal ends the work in order, the second ends the process.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(runCommand(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// runCommand is the whole command: results go to stdout, everything else to stderr,
// and the exit code comes back.
func runCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	complain := func(err error, code int) int {
		fmt.Fprintln(stderr, "likeness:", explain(err))
		return code
	}
	exited := -1 // the code of --help and --version, which end the parse
	var c cli
	parser, err := kong.New(&c,
		kong.Name("likeness"),
		kong.Description("The operator's tool of Likeness, a service that verifies and recognises faces. "+
			"Flags may also be set in the environment, by the names given with them."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true}),
		kong.Vars{"version": version, "tenant": face.DefaultTenant, "gallery": face.DefaultGallery},
		kong.Bind(&tool{ctx: ctx, stdout: stdout, stderr: stderr}),
	)
	if err != nil {
		return complain(err, exitUsage)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	// The server's variables are known, too: both are told the same ones.
	server, serverErr := kong.New(&app.Options{})
	if serverErr != nil {
		return complain(serverErr, exitUsage)
	}
	for _, m := range spelling.Variables(os.Environ(), parser.Model, server.Model) {
		fmt.Fprintln(stderr, "likeness:", m)
	}
	if err != nil {
		return complain(err, exitUsage)
	}
	err = parsed.Run()
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return complain(err, exitUsage)
	}
	return complain(err, exitFailed)
}

// explain is an error in words for the operator, who may see causes.
func explain(err error) string {
	if face.KindOf(err) == face.Canceled {
		return "stopped before the end"
	}
	// Before words, the name of a function and a code only get in the way. An
	// error that others are wrapped round or joined with stays as it is.
	e, ok := errors.AsType[*face.Error](err)
	if !ok || e.Error() != err.Error() {
		return err.Error()
	}
	var parts []string
	if e.Detail != "" {
		parts = append(parts, e.Detail)
	}
	for _, f := range e.Fields {
		parts = append(parts, f.Pointer+": "+f.Detail)
	}
	if e.Err != nil && !strings.Contains(e.Detail, e.Err.Error()) {
		parts = append(parts, e.Err.Error())
	}
	if len(parts) == 0 {
		return e.Kind.Title()
	}
	return strings.Join(parts, ": ")
}

// dataDir is the folder that the server keeps its things in.
type dataDir struct {
	DataDir string `default:"./data" env:"LIKENESS_DATA_DIR" type:"path" placeholder:"DIR" help:"Data folder of the server (default: ./data)."`
}

// modelFolders are the folders that models are looked for in: the one that
// `models pull` writes to, once it is there, and those of the operator.
type modelFolders struct {
	dataDir
	ModelsDir []string `env:"LIKENESS_MODELS_DIR" type:"path" placeholder:"DIR" help:"Folders with models of your own, separated by commas; the defaults need none."`
}

func (m modelFolders) folders() []string { return app.ModelFolders(m.DataDir, m.ModelsDir) }
