package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/pkg/app"
	"github.com/likeness-id/likeness/pkg/embed"
)

func TestMain(m *testing.M) {
	orttest.SkipExamples()
	goleak.VerifyTestMain(pgtest.M{M: m})
}

// options are the defaults, on a free port, without keys.
func options(t *testing.T) app.Options {
	t.Helper()
	o := defaults(t)
	o.ORTLibrary, o.Encoder = orttest.Library(t), orttest.Encoder
	return o
}

func defaults(t *testing.T) app.Options {
	t.Helper()
	var o app.Options
	if err := kong.ApplyDefaults(&o); err != nil {
		t.Fatal(err)
	}
	o.Listen, o.Auth, o.DataDir, o.DatabaseURL, o.ModelsDir = "127.0.0.1:0", "off", t.TempDir(), "", nil
	o.DiskReserve = 0 // each would write it to the disk
	return o
}

// TestDefaultOptions: a Go program and the command begin with the same options.
func TestDefaultOptions(t *testing.T) {
	t.Parallel()
	var command app.Options
	if err := kong.ApplyDefaults(&command); err != nil {
		t.Fatal(err)
	}
	got := app.DefaultOptions()
	folder, err := filepath.Abs(got.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	got.DataDir = folder // the command makes paths absolute
	// What the environment of the test sets is no default.
	got.ORTLibrary, got.DatabaseURL, got.ModelsDir = command.ORTLibrary, command.DatabaseURL, command.ModelsDir
	if diff := cmp.Diff(command, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("options (-command +DefaultOptions):\n%s", diff)
	}
	if err := app.DefaultOptions().Validate(); err != nil {
		t.Error(err)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	if err := defaults(t).Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for option, change := range map[string]func(*app.Options){
		"--listen":           func(o *app.Options) { o.Listen = "nowhere" },
		"--auth":             func(o *app.Options) { o.Listen = "0.0.0.0:80" },
		"--database-url":     func(o *app.Options) { o.DatabaseURL = "mysql://u:p@h/d" },
		"--max-image-bytes":  func(o *app.Options) { o.MaxImageBytes = 0 },
		"--max-megapixels":   func(o *app.Options) { o.MaxMegapixels = -1 },
		"--request-timeout":  func(o *app.Options) { o.RequestTimeout = 0 },
		"--upload-timeout":   func(o *app.Options) { o.UploadTimeout = 0 },
		"--drain-timeout":    func(o *app.Options) { o.DrainTimeout = 0 },
		"--purge-interval":   func(o *app.Options) { o.PurgeInterval = 0 },
		"--style-workers":    func(o *app.Options) { o.StyleWorkers = 0 },
		"--style-per-tenant": func(o *app.Options) { o.StylePerTenant = 0 },
		"--style-queue":      func(o *app.Options) { o.StyleQueue = 0 },
		"--style-bytes":      func(o *app.Options) { o.StyleBytes = 0 },
		"--style-threads":    func(o *app.Options) { o.StyleThreads = -1 },
		"--style-deadline":   func(o *app.Options) { o.StyleDeadline = 0 },
		"--style-ttl":        func(o *app.Options) { o.StyleTTL = -1 },
		"--slots":            func(o *app.Options) { o.Slots = -1 },
		"--queue":            func(o *app.Options) { o.Queue = -1 },
		"--queue-time":       func(o *app.Options) { o.QueueTime = -1 },
		"--cors-origins":     func(o *app.Options) { o.CORSOrigins = []string{"https://app.example", "*"} },
		"--path-prefix":      func(o *app.Options) { o.PathPrefix = "faces/" },
		"--auth-failures":    func(o *app.Options) { o.AuthFailures = -1 },
		"--trusted-proxies":  func(o *app.Options) { o.TrustedProxies = []string{"10.0.0.0/8", "proxy"} },
		"--rate-limit":       func(o *app.Options) { o.RateLimit = -1 },
		"--ambiguity-margin": func(o *app.Options) { o.AmbiguityMargin = 2 },
	} {
		o := defaults(t)
		change(&o)
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), option+": ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", option, err)
		}
		if _, err := app.New(t.Context(), o, "test", slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: New took it", option)
		}
	}
}

// TestNewNeedsModels reads what an operator is told whose model is not there.
func TestNewNeedsModels(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*app.Options)
		says   string
	}{
		{"no file", func(o *app.Options) { o.Encoder = "sface" }, "`likeness models pull sface`, or choose LIKENESS_ENCODER=builtin-encoder"},
		{"no address", func(o *app.Options) { o.Detector = "yunet_n_640" }, "put yunet_n_640.onnx into a folder"},
		{"no such model", func(o *app.Options) { o.Encoder = "facenet" }, `no model is called "facenet"`},
		{"a detector as encoder", func(o *app.Options) { o.Encoder = o.Detector }, "another kind"},
	} {
		o := options(t)
		tt.change(&o)
		if _, err := app.New(t.Context(), o, "test", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestOperatingPointUnsupported reads what an operator is told whose encoder
// cannot decide at the server's operating point.
func TestOperatingPointUnsupported(t *testing.T) {
	t.Parallel()
	o, dir := options(t), t.TempDir()
	o.Encoder = orttest.SecondEncoder(t, dir)
	o.ModelsDir = []string{dir}
	name := filepath.Join(dir, o.Encoder+".json")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	m, err := embed.ParseManifest(text)
	if err != nil {
		t.Fatal(err)
	}
	m.Head = nil
	m.Calibration.Comparisons, m.Calibration.Points = 60_000, m.Calibration.Points[:2]
	few, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	m.Calibration = nil
	none, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		manifest []byte
		says     []string
	}{
		{few, []string{"--operating-point (LIKENESS_OPERATING_POINT)", "supports fmr_1e-2, fmr_1e-3; fmr_1e-4 needs 300000: 240000 more", "429 more people"}},
		{none, []string{"likeness calibrate"}},
	} {
		if err := os.WriteFile(name, tt.manifest, 0o600); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		a, err := app.New(t.Context(), o, "test", slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})))
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		for _, s := range tt.says {
			if !strings.Contains(log.String(), s) {
				t.Errorf("the log does not say %q:\n%s", s, log.String())
			}
		}
	}
}

// TestStartStop starts a server twice on the same data, and fails to start
// one in between: what failed must have let go of everything.
func TestStartStop(t *testing.T) {
	t.Parallel()
	o := options(t)
	for range 2 {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		busy := o
		busy.Listen = taken.Addr().String()
		if _, err := app.New(t.Context(), busy, "test", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "--listen") {
			t.Fatalf("on a taken port: %v", err)
		}

		a, err := app.New(t.Context(), o, "test", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		a.Start()
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := client.Get("http://" + a.Addr() + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		if res.Body.Close(); res.StatusCode != http.StatusOK {
			t.Errorf("healthz: %s", res.Status)
		}
		ctx := context.WithoutCancel(t.Context())
		if err := errors.Join(a.Stop(ctx), a.Stop(ctx)); err != nil {
			t.Error(err)
		}
	}
}

// TestRequestTimeout reads what an operator is told whose requests outlast
// their claim of an Idempotency-Key.
func TestRequestTimeout(t *testing.T) {
	t.Parallel()
	o := defaults(t)
	o.RequestTimeout = 90 * time.Second
	if err := o.Validate(); err == nil || !strings.Contains(err.Error(), "1m30s") || !strings.Contains(err.Error(), "1m0s") {
		t.Errorf("%v", err)
	}
	o.RequestTimeout = 59 * time.Second
	if err := o.Validate(); err != nil {
		t.Error(err)
	}
}
