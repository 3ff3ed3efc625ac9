// Command server answers Likeness's HTTP contract. It only reads options,
// catches signals and returns an exit code; pkg/app does the rest.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"syscall"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/alecthomas/kong"

	"github.com/likeness-id/likeness/internal/spelling"
	"github.com/likeness-id/likeness/pkg/app"
)

// version is set by the linker.
var version = "dev"

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

type flags struct {
	app.Options `embed:""`

	Serve         struct{} `cmd:"" default:"1" help:"Answer requests (the default command)."`
	MigrateSchema struct{} `cmd:"" name:"migrate" help:"Update the schema of the Postgres in --database-url, then exit. Several may run at once; they take turns."`

	Config   kong.ConfigFlag  `type:"path" placeholder:"FILE" help:"JSON file with options, named as the flags are, such as {\"listen\": \"127.0.0.1:8081\"}."`
	LogLevel slog.Level       `default:"INFO" env:"LIKENESS_LOG_LEVEL" help:"Lowest level that is logged: DEBUG, INFO, WARN or ERROR."`
	Version  kong.VersionFlag `help:"Print the version and exit."`
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	var f flags
	parser, err := kong.New(&f,
		kong.Name("server"),
		kong.Description("Likeness: face verification and identification over HTTP. Each option is a flag, an environment variable or a line of the --config file. A flag wins over a variable, and a variable over the file."),
		kong.Configuration(configFile),
		kong.Vars{"version": version},
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		return exitUsage
	}
	parsed, err := parser.Parse(args)
	misspelt := spelling.Variables(os.Environ(), parser.Model)
	if err == nil {
		err = f.Validate()
	}
	if err != nil {
		for _, m := range misspelt { // one of them may be why
			fmt.Fprintln(os.Stderr, "server:", m)
		}
		fmt.Fprintln(os.Stderr, "server:", err)
		return exitUsage
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: f.LogLevel}))

	for _, m := range misspelt {
		log.Warn(m.String(), "variable", m.Name, "nearest", m.Nearest)
	}

	limitMemory(log)

	// The first signal lets requests end, the second cuts them off.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	drain, startDrain := context.WithCancel(context.Background())
	cut, startCut := context.WithCancel(context.Background())
	defer startDrain()
	defer startCut()
	go func() {
		log.Info("draining: running requests may end; a second signal cuts them off", "signal", (<-signals).String())
		startDrain()
		log.Warn("cutting off running requests", "signal", (<-signals).String())
		startCut()
	}()

	if parsed.Command() == "migrate" {
		return migrate(drain, f.Options, log)
	}
	if err := app.Run(drain, cut, f.Options, version, log); err != nil {
		fmt.Fprintf(os.Stderr, "server: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// limitMemory makes Go collect garbage more often before it reaches the memory
// limit of the container. A fifth of the limit is left to ONNX Runtime, which
// Go does not count. GOMEMLIMIT, if it is set, wins.
func limitMemory(log *slog.Logger) {
	limit, err := memlimit.Set(memlimit.WithRatio(0.8))
	switch {
	case err != nil:
		log.Info("the container's memory limit cannot be read, so the limit of Go's memory is unchanged", "error", err)
	case limit == math.MaxInt64:
		log.Info("Go's memory is not limited")
	default:
		log.Info("Go's memory is limited", "bytes", limit)
	}
}

// migrate updates the schema and prints the versions before and after.
func migrate(ctx context.Context, o app.Options, log *slog.Logger) int {
	name, _, err := o.StoreLocation().Name()
	var before, after int64
	if err == nil {
		err = app.OpenWhenReachable(ctx, o.DatabaseWait, log, func() (err error) {
			before, after, err = app.Migrate(ctx, o.StoreLocation())
			return err
		})
	}
	switch {
	case err != nil:
		fmt.Fprintf(os.Stderr, "server: %v\n", err)
		return exitFailed
	case before == after:
		fmt.Printf("%s: the schema is up to date\n", name)
	default:
		fmt.Printf("%s: the schema went from version %d to %d\n", name, before, after)
	}
	return exitOK
}
