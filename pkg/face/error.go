package face

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Kind says what went wrong in terms that a caller can act on. Each kind has
// one stable code, which the HTTP contract, the CLI and the metrics share.
type Kind uint8

// NoError is the kind of no error. It has no code, and is not one of [Kinds].
const NoError Kind = 0

// The kinds. Their order is not part of any contract; their codes are.
const (
	Internal                  Kind = iota + 1 // a fault of the server; the cause is for the log only
	Invalid                                   // the request breaks the contract's schema
	InvalidImage                              // an image of a supported type that cannot be decoded
	Unauthenticated                           // no valid API key
	Forbidden                                 // the key lacks the scope
	NotFound                                  // gallery, subject, template or route is not there
	MethodNotAllowed                          // the route exists, the method does not
	Conflict                                  // it exists already, or an idempotency key was reused
	ModelMismatch                             // an embedding or template of another model
	Damaged                                   // what is stored for a subject can no longer be used
	TooLarge                                  // body, image bytes or pixels over the limit
	UnsupportedImage                          // not an image type that we read
	UnsupportedMediaType                      // a body that is neither JSON nor multipart
	NoFace                                    // no face in the image
	ManyFaces                                 // several faces where one was asked for
	LowQuality                                // the quality gate refused the sample
	FramesDisagree                            // frames to be fused show different people
	Duplicate                                 // enrolment refused: looks like somebody enrolled
	OperatingPointUnsupported                 // the calibration does not support this FMR
	RateLimited                               // the key's rate limit
	QueueFull                                 // the tenant has as many jobs waiting as it may
	NotFinished                               // a job has no result yet
	Overloaded                                // the inference gate and its queue are full
	Unavailable                               // not ready, or draining
	StorageFull                               // nothing more can be stored, but erasing works
	Deadline                                  // not done in time
	Canceled                                  // the caller went away
)

type kindText struct{ code, title string }

// kinds lists the code and the title of every kind. A test checks that it has
// the same codes as api/openapi.yaml.
func kinds() [Canceled + 1]kindText {
	return [...]kindText{
		NoError:                   {"", "No error"},
		Internal:                  {"internal", "Internal error"},
		Invalid:                   {"invalid_request", "Invalid request"},
		InvalidImage:              {"invalid_image", "Image cannot be decoded"},
		Unauthenticated:           {"unauthenticated", "API key missing or not valid"},
		Forbidden:                 {"forbidden", "API key lacks the scope"},
		NotFound:                  {"not_found", "Not found"},
		MethodNotAllowed:          {"method_not_allowed", "Method not allowed"},
		Conflict:                  {"conflict", "Conflict"},
		ModelMismatch:             {"model_mismatch", "Template of another model"},
		Damaged:                   {"template_damaged", "Template damaged"},
		TooLarge:                  {"too_large", "Too large"},
		UnsupportedImage:          {"unsupported_image", "Image type not supported"},
		UnsupportedMediaType:      {"unsupported_media_type", "Media type not supported"},
		NoFace:                    {"no_face", "No face found"},
		ManyFaces:                 {"many_faces", "More than one face found"},
		LowQuality:                {"low_quality", "Quality too low"},
		FramesDisagree:            {"frames_disagree", "Frames show different people"},
		Duplicate:                 {"duplicate_subject", "Face is enrolled as another subject"},
		OperatingPointUnsupported: {"operating_point_unsupported", "Operating point not supported"},
		RateLimited:               {"rate_limited", "Rate limit reached"},
		QueueFull:                 {"queue_full", "Queue full"},
		NotFinished:               {"not_finished", "Not finished"},
		Overloaded:                {"overloaded", "Overloaded"},
		Unavailable:               {"unavailable", "Not available"},
		StorageFull:               {"storage_full", "Storage full"},
		Deadline:                  {"deadline_exceeded", "Deadline exceeded"},
		Canceled:                  {"canceled", "Request canceled"},
	}
}

// Kinds returns every kind.
func Kinds() []Kind {
	var out []Kind
	for k := Internal; k <= Canceled; k++ {
		out = append(out, k)
	}
	return out
}

// Code is the stable machine code of the kind, in snake_case; empty for
// [NoError].
func (k Kind) Code() string { return kinds()[k].code }

// Title is a short human title of the kind.
func (k Kind) Title() string { return kinds()[k].title }

// OfServer reports whether the fault is the server's and not the request's: the
// same request may succeed later.
func (k Kind) OfServer() bool {
	switch k {
	case Internal, Overloaded, Unavailable, StorageFull, Deadline:
		return true
	}
	return false
}

// String returns the code.
func (k Kind) String() string { return k.Code() }

// Error makes a Kind usable as the target of [errors.Is]:
// errors.Is(err, face.NotFound).
func (k Kind) Error() string { return k.Code() }

// FieldError points at one part of a request that breaks the contract.
type FieldError struct {
	Pointer string // RFC 6901 JSON pointer, or the name of a part or parameter
	Detail  string // what is wrong with it, for the caller
}

// Error is the one error of the domain.
type Error struct {
	Kind    Kind
	Op      string       // the operation, for the log: "sqlite.Enrol"
	Detail  string       // for the caller; never holds a cause, a path or a secret
	Reasons []Reason     // why a sample was refused
	Fields  []FieldError // what breaks the contract
	Err     error        // the cause, for the log only
}

// Errorf makes an Error of a kind with a detail for the caller.
func Errorf(kind Kind, op, format string, args ...any) *Error {
	return &Error{Kind: kind, Op: op, Detail: fmt.Sprintf(format, args...)}
}

// Wrap makes an Error of a kind around a cause. The detail for the caller is
// empty: the cause is for the log. It returns nil if err is nil. If the cause
// is the end of a context, the kind is Canceled or Deadline, whatever kind the
// caller gave.
func Wrap(kind Kind, op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		kind = Deadline
	case errors.Is(err, context.Canceled):
		kind = Canceled
	}
	return &Error{Kind: kind, Op: op, Err: err}
}

// WrapDiagnosed is [Wrap] with the kind and the detail that diagnose gives for
// err. An [Error] keeps what it says and gets the operation.
func WrapDiagnosed(op string, err error, diagnose func(error) (Kind, string)) error {
	if err == nil {
		return nil
	}
	var known *Error
	if errors.As(err, &known) {
		e := *known // others may share it
		e.Op = op
		return &e
	}
	kind, detail := diagnose(err)
	wrapped := Wrap(kind, op, err)
	if errors.As(wrapped, &known) && known.Kind == kind {
		known.Detail = detail
	}
	return wrapped
}

// Error describes the error for the log.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op + ": ")
	}
	b.WriteString(e.Kind.Code())
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	for _, f := range e.Fields {
		b.WriteString(": " + f.Pointer + ": " + f.Detail)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is the kind of this error.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

// PointAt adds to an error which part of the request caused it, as an RFC 6901
// JSON pointer. The error's detail, or else the title of its kind, says what is
// wrong there. An error that already has a pointer, or that is the server's
// fault, is returned unchanged.
func PointAt(err error, pointer string) error {
	var e *Error
	if !errors.As(err, &e) || len(e.Fields) > 0 || e.Kind.OfServer() {
		return err
	}
	pointed, detail := *e, e.Detail
	if detail == "" {
		detail = e.Kind.Title()
	}
	pointed.Fields = []FieldError{{Pointer: pointer, Detail: detail}}
	return &pointed
}

// maxExcerpt is how many bytes of a text an error or a log line repeats.
const maxExcerpt = 100

// Excerpt is the beginning of a text from a caller, for errors and logs: at
// most 100 bytes of valid UTF-8, then "…" if it was cut. So a very long text
// neither fills the log nor comes back whole in an answer.
func Excerpt(text string) string {
	if len(text) > maxExcerpt {
		end := maxExcerpt
		for end > maxExcerpt-utf8.UTFMax && !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// KindOf returns the kind of the outermost [Error] in err's chain, and [NoError]
// for nil. A bare end of a context is Deadline or Canceled; anything else, an
// Error without a kind too, is Internal.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case err == nil:
		return NoError
	case errors.As(err, &e) && e.Kind != NoError:
		return e.Kind
	case errors.Is(err, context.DeadlineExceeded):
		return Deadline
	case errors.Is(err, context.Canceled):
		return Canceled
	}
	return Internal
}
