// Command bench measures Likeness: milliseconds per stage, requests per second
// against the bare pipeline, memory over time, and identification against the
// memory's bandwidth. Speeds are ratios to a yardstick that is measured in
// turns in the same run, because machines differ and are shared.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/likeness-id/likeness/pkg/likeness"
)

type flags struct {
	Only      []string      `help:"Which to run: stages, verify, against, builtins, doors, overload, memory, search, engines, style, train, detect, conditions. If none is named: all but against, which needs --against, and the last five, which take long."`
	Server    string        `default:"bin/server" type:"path" help:"The server to measure."`
	Against   string        `type:"path" help:"Another build of the server, which the part against measures in turns with the first."`
	ModelsDir []string      `env:"LIKENESS_MODELS_DIR" type:"path" help:"Folders with the models."`
	Images    string        `default:"../shared/data/lfw-dev.tar" type:"path" help:"Photos, a folder or a tar."`
	Requests  int           `default:"20000" help:"Requests of the memory run."`
	Round     time.Duration `default:"4s" help:"Length of one round of the verify run."`
	Rounds    int           `default:"3" help:"Rounds of each side in the verify run."`
	searchFlags
	styleFlags
	trainFlags
	detectFlags
	conditionsFlags
	torchFlags
	Report string `default:"out/bench.md" type:"path" help:"File for the report, which is printed too."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var f flags
	kong.Parse(&f, kong.Name("bench"), kong.Description("Measures speed, memory and search; prints Markdown."))
	if err := run(ctx, f); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, f flags) error {
	if err := os.MkdirAll("out", 0o755); err != nil {
		return err
	}
	report, err := os.Create(f.Report)
	if err != nil {
		return err
	}
	defer report.Close()
	b := &bench{flags: f, out: io.MultiWriter(os.Stdout, report)}
	b.printf("# Measured %s on %s\n\n", time.Now().UTC().Format(time.DateOnly), machine())
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"stages", b.stages}, {"verify", b.verify}, {"against", b.against}, {"builtins", b.builtins}, {"doors", b.doors}, {"overload", b.overload}, {"memory", b.memory}, {"search", b.search}, {"engines", b.engines}, {"style", b.style}, {"train", b.train}, {"detect", b.detect}, {"conditions", b.conditions}} {
		named := slices.Contains(f.Only, part.name)
		if !named && (len(f.Only) > 0 || slices.Contains([]string{"against", "engines", "style", "train", "detect", "conditions"}, part.name)) {
			continue
		}
		if f.StyleCase == "" && f.TrainCase == "" {
			fmt.Fprintf(os.Stderr, "bench: %s ...\n", part.name)
		}
		if err := part.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

type bench struct {
	flags
	out io.Writer
}

func (b *bench) printf(format string, args ...any) { fmt.Fprintf(b.out, format, args...) }

// open opens the bare pipeline: the yardstick, in this process, without HTTP.
func (b *bench) open(ctx context.Context, observe func(string, float64)) (*likeness.Pipeline, error) {
	return likeness.Open(ctx, likeness.Options{
		ModelsDirs: b.ModelsDir, Observe: observe,
	})
}

// machine is the processor's name and the number of cores.
func machine() string {
	name := runtime.GOARCH
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				name = strings.TrimSpace(v)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d cores, %s", name, runtime.NumCPU(), runtime.Version())
}

// quantile is the q-th quantile (0..1) of times, which it sorts.
func quantile(times []time.Duration, q float64) time.Duration {
	slices.Sort(times)
	return times[min(int(q*float64(len(times))), len(times)-1)]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
