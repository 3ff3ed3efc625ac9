package app

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/handlers"
	"github.com/likeness-id/likeness/pkg/imaging"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/style"
)

// Options is everything that can be set. The tags are read by cmd/server
// (flags over environment over file over default); this package reads neither
// flags nor environment.
type Options struct {
	Listen      string `default:"127.0.0.1:8080" env:"LIKENESS_LISTEN" help:"Address to answer on, host:port."`
	DataDir     string `default:"./data" env:"LIKENESS_DATA_DIR" type:"path" help:"Folder of the embedded store."`
	DatabaseURL string `env:"LIKENESS_DATABASE_URL" help:"Store to use: postgres://USER@HOST/NAME, or empty, or sqlite:PATH, for the embedded one."`

	DiskReserve int64 `default:"67108864" env:"LIKENESS_DISK_RESERVE" help:"Bytes that the embedded store keeps free on its disk, so that people can be erased when it is full; 0: none."`

	DatabasePasswordFile string        `env:"LIKENESS_DATABASE_PASSWORD_FILE" type:"path" help:"File with the password of the Postgres, when its URL does not hold it; read at each connection."`
	DatabaseReadURLs     []string      `name:"database-read-urls" env:"LIKENESS_DATABASE_READ_URLS" help:"Streaming replicas of the Postgres that share the reading, separated by commas."`
	DatabaseWait         time.Duration `default:"30s" env:"LIKENESS_DATABASE_WAIT" help:"How long to go on trying at the start while the Postgres cannot be reached; 0: one try."`
	Migrate              bool          `env:"LIKENESS_MIGRATE" help:"Bring the schema of the Postgres up to date before answering, as the command migrate does."`
	Search               string        `default:"auto" enum:"index,pgvector,auto" env:"LIKENESS_SEARCH" help:"What searches a Postgres: index, an exact one in memory; pgvector; or auto, the index as long as it fits into --search-memory."`
	SearchMemory         int64         `default:"0" env:"LIKENESS_SEARCH_MEMORY" help:"Most bytes of the index with --search=auto; 0: half of the machine's memory."`

	ModelsDir  []string      `env:"LIKENESS_MODELS_DIR" type:"path" help:"Folders with models of your own, separated by commas; the defaults need none."`
	Detector   string        `default:"builtin-detector" env:"LIKENESS_DETECTOR" help:"Id of the face detector."`
	Encoder    string        `default:"builtin-encoder" env:"LIKENESS_ENCODER" help:"Id of the face encoder, which a gallery keeps once somebody is enrolled in it."`
	ORTLibrary string        `name:"ort-library" env:"LIKENESS_ORT_LIBRARY" type:"path" help:"ONNX Runtime's shared library, when it is not where it is looked for."`
	Provider   string        `default:"cpu" env:"LIKENESS_PROVIDER" help:"ONNX Runtime's execution provider: cpu, cuda, ..."`
	Slots      int           `default:"0" env:"LIKENESS_SLOTS" help:"Requests whose photos are worked on at the same time; 0: one a core."`
	Queue      int           `default:"0" env:"LIKENESS_QUEUE" help:"Requests that may wait for a slot at most; one more is answered 503 at once; 0: eight a slot."`
	QueueTime  time.Duration `default:"0s" env:"LIKENESS_QUEUE_TIME" help:"How long a request may wait for a slot while more comes than can be done; one that would wait longer is answered 503 at once. 0: half as long as a request takes, as measured."`

	CropKeyFile []string `env:"LIKENESS_CROP_KEY_FILE" type:"path" help:"Files with the key that seals the images which galleries keep (32 bytes, as hex, base64 or raw), separated by commas: the first seals, all open."`

	StyleWorkers   int           `default:"1" env:"LIKENESS_STYLE_WORKERS" help:"Style-transfer jobs that this server works on at the same time."`
	StylePerTenant int           `default:"1" env:"LIKENESS_STYLE_PER_TENANT" help:"Style-transfer jobs of one tenant that all servers work on at the same time; the same on all of them."`
	StyleQueue     int           `default:"100" env:"LIKENESS_STYLE_QUEUE" help:"Style-transfer jobs of one tenant that may wait; one more is answered 429."`
	StyleBytes     int64         `default:"4294967296" env:"LIKENESS_STYLE_BYTES" help:"Most bytes of the pictures of one tenant's style-transfer jobs that wait or are kept; with more, a job is answered 429."`
	StyleThreads   int           `default:"0" env:"LIKENESS_STYLE_THREADS" help:"Threads of one style-transfer job; 0: half of the cores."`
	StyleDeadline  time.Duration `default:"30m" env:"LIKENESS_STYLE_DEADLINE" help:"A style-transfer job that is worked on for longer fails."`
	StyleTTL       time.Duration `name:"style-ttl" default:"24h" env:"LIKENESS_STYLE_TTL" help:"How long style-transfer jobs and their pictures are kept after their end."`
	// Transferrer makes style transfers instead of our own; for tests.
	Transferrer style.Transferrer `kong:"-"`

	Auth            string        `default:"on" enum:"on,off" env:"LIKENESS_AUTH" help:"API keys: on, or off, which is accepted on a loopback address only."`
	OperatingPoint  string        `default:"fmr_1e-4" env:"LIKENESS_OPERATING_POINT" help:"Operating point of requests that name none."`
	Identification  string        `default:"comparison" enum:"comparison,search" env:"LIKENESS_IDENTIFICATION" help:"What the rate of an operating point is of in /recognize: comparison, as in /verify; or search, by a threshold that grows with the gallery, and a refusal where the calibration does not reach that far."`
	AmbiguityMargin float64       `default:"0.05" env:"LIKENESS_AMBIGUITY_MARGIN" help:"Two subjects over the threshold whose scores are closer than this are ambiguous."`
	AuditDecisions  bool          `default:"false" env:"LIKENESS_AUDIT_DECISIONS" help:"Record every decision about somebody enrolled in the audit chain before it is answered."`
	RateLimit       int           `default:"600" env:"LIKENESS_RATE_LIMIT" help:"Requests a minute for each API key; 0: no limit."`
	AuthFailures    int           `default:"300" env:"LIKENESS_AUTH_FAILURES" help:"Authentications that may fail a minute from one address; after that a key that is not good is answered 429. 0: no limit."`
	TrustedProxies  []string      `env:"LIKENESS_TRUSTED_PROXIES" help:"Addresses of proxies whose X-Forwarded-For says where a request came from, such as 10.0.0.0/8, separated by commas; without any, nobody's does."`
	CORSOrigins     []string      `name:"cors-origins" env:"LIKENESS_CORS_ORIGINS" help:"Origins of web pages whose scripts may call the server, such as https://app.example, separated by commas; without any, no page's may."`
	PathPrefix      string        `env:"LIKENESS_PATH_PREFIX" help:"Path under which a proxy shows the server, such as /faces: its links begin with it. The proxy may take it off the paths of requests, or leave it."`
	MaxImageBytes   int64         `default:"10485760" env:"LIKENESS_MAX_IMAGE_BYTES" help:"Most bytes of one image."`
	MaxMegapixels   float64       `default:"50" env:"LIKENESS_MAX_MEGAPIXELS" help:"Most megapixels of one image."`
	RequestTimeout  time.Duration `default:"15s" env:"LIKENESS_REQUEST_TIMEOUT" help:"A request that takes longer, once its body is in, is answered 504."`
	UploadTimeout   time.Duration `default:"60s" env:"LIKENESS_UPLOAD_TIMEOUT" help:"A body that takes longer to arrive is answered 504."`
	DrainTimeout    time.Duration `default:"20s" env:"LIKENESS_DRAIN_TIMEOUT" help:"How long requests under way may take after the first SIGTERM."`
	PurgeInterval   time.Duration `default:"1h" env:"LIKENESS_PURGE_INTERVAL" help:"How often templates past their gallery's retention are erased."`
}

// Validate names everything that is wrong, each with its option.
func (o Options) Validate() error {
	var errs []error
	wrong := func(option, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--%s: %s", option, fmt.Sprintf(format, args...)))
	}
	host, _, err := net.SplitHostPort(o.Listen)
	if err != nil {
		wrong("listen", "%q is not host:port", o.Listen)
	}
	switch o.Auth {
	case "on":
	case "off":
		if err == nil && !loopback(host) {
			wrong("auth", "off is accepted on a loopback address only, and %s is reached from elsewhere", o.Listen)
		}
	default:
		wrong("auth", "%q is neither on nor off", o.Auth)
	}
	if o.Identification != "" && o.Identification != "comparison" && o.Identification != "search" {
		wrong("identification", "%q is neither comparison nor search", o.Identification)
	}
	if _, _, err := o.Place().Name(); face.KindOf(err) == face.Invalid {
		detail := err.Error()
		if e, ok := errors.AsType[*face.Error](err); ok {
			detail = e.Detail
		}
		wrong("database-url", "%s", detail)
	}
	positive := map[string]float64{
		"max-image-bytes": float64(o.MaxImageBytes), "max-megapixels": o.MaxMegapixels,
		"request-timeout": float64(o.RequestTimeout), "upload-timeout": float64(o.UploadTimeout), "drain-timeout": float64(o.DrainTimeout),
		"purge-interval": float64(o.PurgeInterval), "style-deadline": float64(o.StyleDeadline), "style-ttl": float64(o.StyleTTL),
		"style-workers": float64(o.StyleWorkers), "style-per-tenant": float64(o.StylePerTenant), "style-queue": float64(o.StyleQueue),
		"style-bytes": float64(o.StyleBytes),
	}
	for _, name := range []string{
		"max-image-bytes", "max-megapixels", "request-timeout", "upload-timeout", "drain-timeout", "purge-interval",
		"style-workers", "style-per-tenant", "style-queue", "style-bytes", "style-deadline", "style-ttl",
	} {
		if positive[name] <= 0 {
			wrong(name, "must be more than 0")
		}
	}
	if o.Slots < 0 {
		wrong("slots", "must be 0 or more")
	}
	if o.Queue < 0 {
		wrong("queue", "must be 0 or more")
	}
	if o.QueueTime < 0 {
		wrong("queue-time", "must be 0 or more")
	}
	if o.StyleThreads < 0 {
		wrong("style-threads", "must be 0 or more")
	}
	if o.DiskReserve < 0 {
		wrong("disk-reserve", "must be 0 or more")
	}
	if o.DatabaseWait < 0 {
		wrong("database-wait", "must be 0 or more")
	}
	if o.SearchMemory < 0 {
		wrong("search-memory", "must be 0 or more")
	}
	if o.RequestTimeout >= store.ClaimTTL {
		wrong("request-timeout", "%s is not less than the %s for which an Idempotency-Key is kept for a request under way: a retry would be carried out beside it", o.RequestTimeout, store.ClaimTTL)
	}
	for _, proxy := range o.TrustedProxies {
		if _, err := netip.ParsePrefix(proxy); err != nil {
			wrong("trusted-proxies", "%q is not a prefix such as 10.0.0.0/8 or 192.0.2.7/32", proxy)
		}
	}
	for _, origin := range o.CORSOrigins {
		if err := handlers.CheckOrigin(origin); err != nil {
			wrong("cors-origins", "%v", err)
		}
	}
	if err := handlers.CheckPathPrefix(o.PathPrefix); err != nil {
		wrong("path-prefix", "%v", err)
	}
	if o.AuthFailures < 0 {
		wrong("auth-failures", "must be 0 or more")
	}
	if o.RateLimit < 0 {
		wrong("rate-limit", "must be 0 or more")
	}
	if !(o.AmbiguityMargin >= 0 && o.AmbiguityMargin <= 1) {
		wrong("ambiguity-margin", "must be between 0 and 1")
	}
	return errors.Join(errs...)
}

// Place is where the server's store is.
func (o Options) Place() Place {
	return Place{DatabaseURL: o.DatabaseURL, PasswordFile: o.DatabasePasswordFile, DataDir: o.DataDir}
}

// loopback reports whether a listen host is reached from this machine alone.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (o Options) limits() imaging.Limits {
	l := imaging.DefaultLimits()
	l.MaxBytes = o.MaxImageBytes
	l.MaxPixels = int64(o.MaxMegapixels * 1e6)
	return l
}
