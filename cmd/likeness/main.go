// Command likeness is the operator's tool: API keys, models and the ONNX
// Runtime, enrolment of a folder, and the measurements that decisions rest on.
//
// It exits with 0 when everything succeeded, 1 when some or all of the work
// failed, and 2 when it was called wrongly.
//
// A command is in the file of its name (eval.go), and its parts in files that
// begin with it (eval_report.go). Files that several commands share are main.go
// (parsing, errors), pipeline.go (photos to embeddings), postgres.go (flags of a
// Postgres store), format.go, progress.go, plots.go, canvas.go and files.go.
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
	"github.com/likeness-id/likeness/pkg/client"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
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
	Keys      keysCmd      `cmd:"" help:"Create, list and revoke API keys."`
	Models    modelsCmd    `cmd:"" help:"List, fetch and check models."`
	Runtime   runtimeCmd   `cmd:"" help:"Find or fetch ONNX Runtime, which runs the models."`
	Ready     readyCmd     `cmd:"" help:"Check whether a running server is ready (a health check)."`
	Enrol     enrolCmd     `cmd:"" help:"Enrol a folder of photos with a running server, one sub-folder per subject."`
	Eval      evalCmd      `cmd:"" help:"Measure error rates on labelled photos: verification and identification."`
	Export    exportCmd    `cmd:"" help:"Export a gallery with its templates from a running server to a file."`
	Import    importCmd    `cmd:"" help:"Import a file that export wrote into a running server."`
	Audit     auditCmd     `cmd:"" help:"Check or list the audit records of a store."`
	Backup    backupCmd    `cmd:"" help:"Copy the embedded store and its style-transfer jobs into a folder. The server may be running."`
	Restore   restoreCmd   `cmd:"" help:"Replace the embedded store with a backup. The server must not be running."`
	Store     storeCmd     `cmd:"" help:"Find damage in a store and say how to repair it."`
	Migrate   migrateCmd   `cmd:"" name:"migrate-store" help:"Copy a whole store into another one, such as SQLite into Postgres."`
	Train     trainCmd     `cmd:"" help:"Train an encoder: adapt one to your photos, or start from random weights."`
	Calibrate calibrateCmd `cmd:"" help:"Measure how alike an encoder finds different people, and set its operating points."`
	Inspect   inspectCmd   `cmd:"" help:"Show what the units of a model respond to: patches of photos, generated pictures, filters, statistics."`
	Style     styleCmd     `cmd:"" help:"Transfer the style of pictures to a picture, or of a signal or volume to another."`

	BenchSearch benchSearchCmd `cmd:"" help:"Measure recall and speed of the search engines on a gallery of yours, and recommend a setting."`
	SearchGraph searchGraphCmd `cmd:"" help:"Build, list and drop graphs for approximate search in Postgres."`

	Version kong.VersionFlag `help:"Print the version and exit."`
}

// tool is what every command works with.
type tool struct {
	ctx            context.Context
	stdout, stderr io.Writer
}

// usageError is an error in the way the command was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() {
	// The first signal ends the work in order, the second ends the process.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(runCommand(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// helpVariables are what the texts and defaults of the flags name.
func helpVariables() kong.Vars {
	return kong.Vars{
		"version": version, "tenant": face.DefaultTenant, "gallery": face.DefaultGallery,
		"formats": imaging.Formats, "decoders": strings.Join(embed.Decoders(), ","),
	}
}

// runCommand runs the tool: results go to stdout, everything else to stderr. It
// returns the exit code.
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
			"Flags may also be set by the environment variables that are shown beside them."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true}),
		helpVariables(),
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
	// The server's variables are known, too: both read the same environment.
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

// explain describes an error to the operator, who may see its cause.
func explain(err error) string {
	if face.KindOf(err) == face.Canceled {
		return "stopped before the end"
	}
	// The name of a function and a code do not help an operator, so they are left
	// out. An error that is wrapped in or joined with others stays as it is.
	e, ok := errors.AsType[*face.Error](err)
	if errors.Is(err, client.ProblemCodeUnauthenticated) && !strings.Contains(err.Error(), keyEnv) {
		return err.Error() + keyAdvice
	}
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

// dataDir is the server's data folder.
type dataDir struct {
	DataDir string `default:"./data" env:"LIKENESS_DATA_DIR" type:"path" placeholder:"DIR" help:"Data folder of the server (default: ./data)."`
}

// modelFolders are the folders that models are read from: the one that `models
// pull` writes to, if it exists, and the operator's own.
type modelFolders struct {
	dataDir
	ModelsDir []string `env:"LIKENESS_MODELS_DIR" type:"path" placeholder:"DIR" help:"Folders with your own models, separated by commas. The built-in models need none."`
}

func (m modelFolders) folders() []string { return app.ModelFolders(m.DataDir, m.ModelsDir) }
