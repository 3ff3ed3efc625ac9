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
	Listen      string `default:"127.0.0.1:8080" env:"LIKENESS_LISTEN" help:"Address to listen on, host:port."`
	DataDir     string `default:"./data" env:"LIKENESS_DATA_DIR" type:"path" help:"Folder of the embedded store."`
	DatabaseURL string `env:"LIKENESS_DATABASE_URL" help:"The store: postgres://USER@HOST/NAME, or sqlite:PATH or empty for the embedded store."`

	DiskReserve int64 `default:"67108864" env:"LIKENESS_DISK_RESERVE" help:"Bytes of its disk that the embedded store reserves, so that people can be erased even when the disk is full; 0 reserves none."`

	DatabasePasswordFile string        `env:"LIKENESS_DATABASE_PASSWORD_FILE" type:"path" help:"File with the password of Postgres, if the URL has none. It is read at each connection."`
	DatabaseReadURLs     []string      `name:"database-read-urls" env:"LIKENESS_DATABASE_READ_URLS" help:"URLs of streaming replicas of Postgres that answer reads, separated by commas."`
	DatabaseWait         time.Duration `default:"30s" env:"LIKENESS_DATABASE_WAIT" help:"How long to retry at the start if Postgres cannot be reached; 0 tries once."`
	Migrate              bool          `env:"LIKENESS_MIGRATE" help:"Update the schema of Postgres at the start, as the command migrate does."`
	Search               string        `default:"auto" enum:"index,pgvector,auto" env:"LIKENESS_SEARCH" help:"What answers searches with Postgres: index (exact, in memory), pgvector, or auto (the index while it fits into --search-memory)."`
	SearchMemory         int64         `default:"0" env:"LIKENESS_SEARCH_MEMORY" help:"Most bytes of the index with --search=auto; 0 means half of the machine's memory."`

	ModelsDir  []string      `env:"LIKENESS_MODELS_DIR" type:"path" help:"Folders with models of your own, separated by commas. The default models need none."`
	Detector   string        `default:"builtin-detector" env:"LIKENESS_DETECTOR" help:"Id of the face detector."`
	Encoder    string        `default:"builtin-encoder-2" env:"LIKENESS_ENCODER" help:"Id of the face encoder. A gallery keeps its encoder once somebody is enrolled in it."`
	ORTLibrary string        `name:"ort-library" env:"LIKENESS_ORT_LIBRARY" type:"path" help:"Path of ONNX Runtime's shared library, if it is not found by itself."`
	Provider   string        `default:"cpu" env:"LIKENESS_PROVIDER" help:"ONNX Runtime's execution provider: cpu, cuda, ..."`
	Slots      int           `default:"0" env:"LIKENESS_SLOTS" help:"Requests whose photos are processed at the same time; 0 means one per core."`
	Queue      int           `default:"0" env:"LIKENESS_QUEUE" help:"Most requests that may wait for a slot; further ones are answered 503 at once. 0 means eight per slot."`
	QueueTime  time.Duration `default:"0s" env:"LIKENESS_QUEUE_TIME" help:"How long a request may wait for a slot during an overload; one that would wait longer is answered 503 at once. 0 means half of the measured time of a request."`

	CropKeyFile []string `env:"LIKENESS_CROP_KEY_FILE" type:"path" help:"Files with keys that seal the images of galleries with store_images (32 bytes, as hex, base64 or raw), separated by commas. The first key seals, and all of them open."`

	StyleWorkers   int           `default:"1" env:"LIKENESS_STYLE_WORKERS" help:"Style-transfer jobs that this server runs at the same time."`
	StylePerTenant int           `default:"1" env:"LIKENESS_STYLE_PER_TENANT" help:"Style-transfer jobs of one tenant that all servers together run at the same time. It must be the same on all servers."`
	StyleQueue     int           `default:"100" env:"LIKENESS_STYLE_QUEUE" help:"Style-transfer jobs of one tenant that may wait; further ones are answered 429."`
	StyleBytes     int64         `default:"4294967296" env:"LIKENESS_STYLE_BYTES" help:"Most bytes of pictures of one tenant's style-transfer jobs, waiting or kept; a job that would need more is answered 429."`
	StyleThreads   int           `default:"0" env:"LIKENESS_STYLE_THREADS" help:"Threads of one style-transfer job; 0 means half of the cores."`
	StyleDeadline  time.Duration `default:"30m" env:"LIKENESS_STYLE_DEADLINE" help:"Most time that a style-transfer job may run; then it fails."`
	StyleTTL       time.Duration `name:"style-ttl" default:"24h" env:"LIKENESS_STYLE_TTL" help:"How long style-transfer jobs and their pictures are kept after they end."`
	// Transferrer makes style transfers instead of our own; for tests.
	Transferrer style.Transferrer `kong:"-"`

	Auth            string        `default:"on" enum:"on,off" env:"LIKENESS_AUTH" help:"API keys: on, or off. off is accepted only on a loopback address."`
	OperatingPoint  string        `default:"fmr_1e-4" env:"LIKENESS_OPERATING_POINT" help:"Operating point of requests that name none."`
	Identification  string        `default:"comparison" enum:"comparison,search" env:"LIKENESS_IDENTIFICATION" help:"What the false match rate of an operating point means in /recognize: comparison (of one comparison, as in /verify), or search (of the whole search: the threshold grows with the gallery, and a point that the calibration does not support is refused)."`
	AmbiguityMargin float64       `default:"0.05" env:"LIKENESS_AMBIGUITY_MARGIN" help:"If the scores of two subjects above the threshold differ by less than this, the decision is ambiguous."`
	AuditDecisions  bool          `default:"false" env:"LIKENESS_AUDIT_DECISIONS" help:"Record every decision about an enrolled subject in the audit chain before it is answered."`
	RateLimit       int           `default:"600" env:"LIKENESS_RATE_LIMIT" help:"Requests per minute for each API key; 0 means no limit."`
	AuthFailures    int           `default:"300" env:"LIKENESS_AUTH_FAILURES" help:"Failed authentications per minute and address, after which a wrong key is answered 429; 0 means no limit."`
	TrustedProxies  []string      `env:"LIKENESS_TRUSTED_PROXIES" help:"Addresses of proxies whose X-Forwarded-For header is trusted, such as 10.0.0.0/8, separated by commas. If it is empty, the header is ignored."`
	CORSOrigins     []string      `name:"cors-origins" env:"LIKENESS_CORS_ORIGINS" help:"Origins of web pages whose scripts may call the server, such as https://app.example, separated by commas. If it is empty, no other origin may."`
	PathPrefix      string        `env:"LIKENESS_PATH_PREFIX" help:"Path under which a proxy serves this server, such as /faces. Links begin with it. The proxy may remove it from the paths of requests or keep it."`
	MaxImageBytes   int64         `default:"10485760" env:"LIKENESS_MAX_IMAGE_BYTES" help:"Most bytes of one image."`
	MaxMegapixels   float64       `default:"50" env:"LIKENESS_MAX_MEGAPIXELS" help:"Most megapixels of one image."`
	RequestTimeout  time.Duration `default:"15s" env:"LIKENESS_REQUEST_TIMEOUT" help:"Most time for a request after its body has arrived; then it is answered 504."`
	UploadTimeout   time.Duration `default:"60s" env:"LIKENESS_UPLOAD_TIMEOUT" help:"Most time for a body to arrive; then the request is answered 504."`
	DrainTimeout    time.Duration `default:"20s" env:"LIKENESS_DRAIN_TIMEOUT" help:"How long running requests may take after the first SIGTERM."`
	PurgeInterval   time.Duration `default:"1h" env:"LIKENESS_PURGE_INTERVAL" help:"How often to erase templates that are older than their gallery's retention time."`
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
		if err == nil && !isLoopback(host) {
			wrong("auth", "off is accepted on a loopback address only, and %s is reached from elsewhere", o.Listen)
		}
	default:
		wrong("auth", "%q is neither on nor off", o.Auth)
	}
	if o.Identification != "" && o.Identification != "comparison" && o.Identification != "search" {
		wrong("identification", "%q is neither comparison nor search", o.Identification)
	}
	if _, _, err := o.StoreLocation().Name(); face.KindOf(err) == face.Invalid {
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

// StoreLocation is where the server's store is.
func (o Options) StoreLocation() StoreLocation {
	return StoreLocation{DatabaseURL: o.DatabaseURL, PasswordFile: o.DatabasePasswordFile, DataDir: o.DataDir}
}

// isLoopback reports whether a listen host is reached from this machine alone.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (o Options) imageLimits() imaging.Limits {
	l := imaging.DefaultLimits()
	l.MaxBytes = o.MaxImageBytes
	l.MaxPixels = int64(o.MaxMegapixels * 1e6)
	return l
}
