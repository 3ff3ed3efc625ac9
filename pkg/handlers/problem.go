package handlers

import (
	"encoding/json"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// explanation is what the contract says of a kind of error.
type explanation struct {
	status          int
	meaning, remedy string
}

// explain explains a kind. For a status of 5xx, the detail is always the
// meaning, because the error's own detail may reveal internals.
func explain(k face.Kind) explanation {
	switch k {
	case face.Invalid:
		return explanation{400, "The request breaks the contract.", "Read the member errors: each entry points at a field and says what is wrong with it. The contract is at /openapi.yaml."}
	case face.InvalidImage:
		return explanation{400, "The image is of a supported type but cannot be decoded: it is incomplete or damaged.", "Send the complete file as the camera wrote it."}
	case face.Unauthenticated:
		return explanation{401, "The request has no API key, or one that is unknown, revoked or expired.", "Send the key as Authorization: Bearer <key>, or as X-API-Key: <key>. The operator makes one with: likeness keys create."}
	case face.Forbidden:
		return explanation{403, "The API key lacks the scope that the operation needs.", "Ask the operator for a key with the scope that detail names."}
	case face.NotFound:
		return explanation{404, "The gallery, subject, template, job or route does not exist, or belongs to another tenant.", "Check the path and the ids. Create a subject before its templates."}
	case face.MethodNotAllowed:
		return explanation{405, "The path exists, but not with this method.", "Use a method that the Allow header names."}
	case face.Conflict:
		return explanation{409, "The id is in use, or the Idempotency-Key belongs to another request or to one that is still running.", "Use another id or key, or read the existing record."}
	case face.ModelMismatch:
		return explanation{409, "The embedding or the templates are of another model than the one in use; vectors of two models are never compared.", "Embed or enrol again with the model in use, which GET /models names."}
	case face.Damaged:
		return explanation{409, "The stored templates of the subject are damaged, so nothing can be compared with them.", "Erase the subject's templates that GET lists as damaged, and enrol again. The operator finds all of them with: likeness store check."}
	case face.TooLarge:
		return explanation{413, "The body, the bytes of an image or its pixels are over the limit.", "Scale the photo down: a face needs no more than a few hundred pixels."}
	case face.UnsupportedImage:
		return explanation{415, "The file is not an image of a supported type.", "Send " + imaging.Formats + "; detail names the type that was sent, if it is known."}
	case face.UnsupportedMediaType:
		return explanation{415, "The route does not accept the media type of the body.", "Send application/json or, if the route takes an image, multipart/form-data."}
	case face.NoFace:
		return explanation{422, "No face was found in the image.", "Send a photo that shows the face upright, lit and at least 40 pixels wide."}
	case face.ManyFaces:
		return explanation{422, "The route needs one face, and the photo has several of which none is clearly the main one.", "Name a point inside the wanted face with face_at, ask for the largest with face=largest, or send another photo."}
	case face.LowQuality:
		return explanation{422, "The quality gate refuses the face; the member reasons says why.", "Take another photo, or enrol it anyway with quality_gate=off."}
	case face.FramesDisagree:
		return explanation{422, "The frames to be fused do not all show the same person, so no decision was made.", "Send frames of one person, or each frame alone."}
	case face.Duplicate:
		return explanation{422, "The face matches another enrolled subject, and the request has on_duplicate=refuse.", "Look at the subject that detail names, or enrol with on_duplicate=warn."}
	case face.OperatingPointUnsupported:
		return explanation{422, "The model's calibration does not support the operating point: too few impostor comparisons were measured.", "Ask for an operating point that GET /models lists, or calibrate the model with more photos."}
	case face.RateLimited:
		return explanation{429, "The API key made too many requests, or authentication failed too often from the address.", "Wait as long as Retry-After says."}
	case face.QueueFull:
		return explanation{429, "The tenant has the most style-transfer jobs that may wait.", "Wait until some have ended, or cancel some: GET /style-transfer lists them."}
	case face.NotFinished:
		return explanation{409, "The job waits or runs, and has no result yet.", "Repeat GET /style-transfer/{id}, or follow its events, until it has succeeded."}
	case face.Overloaded:
		return explanation{503, "The server is overloaded.", "Try again after Retry-After seconds, with growing pauses."}
	case face.Unavailable:
		return explanation{503, "The server is not ready yet, or is shutting down.", "Try again after Retry-After seconds. GET /readyz says when it is ready."}
	case face.StorageFull:
		return explanation{503, "The storage is full: nothing more is stored. Searching and erasing still work.", "Ask the operator to make room on the disk, then send the request again."}
	case face.Deadline:
		return explanation{504, "The request took too long.", "Send a smaller photo, allow more time if the request has max_ms, or try again when there is less load."}
	case face.Canceled:
		return explanation{499, "The caller closed the connection before the answer.", "Wait longer for the answer."}
	default:
		return explanation{500, "The server failed. Its log has the cause, with this request id.", "Give the operator the instance of the problem, which is the request id."}
	}
}

// problemSlug is the name of a kind in the URL of its page.
func problemSlug(k face.Kind) string { return strings.ReplaceAll(k.Code(), "_", "-") }

// fail answers a request with an error. It is the only place that does. It logs
// an error that is the server's fault, and does not show its cause to the
// caller.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	ctx := r.Context()
	kind := face.KindOf(err)
	c := callOf(ctx)
	c.code = kind.Code()
	about := explain(kind)
	p := api.Problem{
		Type: s.PathPrefix + "/problems/" + problemSlug(kind), Title: kind.Title(), Status: about.status,
		Instance: "urn:likeness:request:" + c.id, Code: api.ProblemCode(kind.Code()),
	}
	var e *face.Error
	switch {
	case errors.As(err, &e) && (about.status < 500 || kind == face.Unavailable):
		// The detail of Unavailable says how far loading is, which every caller
		// may know.
		p.Detail, p.Reasons = optionalText(e.Detail), e.Reasons
		for _, f := range e.Fields {
			p.Errors = append(p.Errors, api.FieldError{Pointer: f.Pointer, Detail: f.Detail})
		}
	case about.status >= 500:
		p.Detail = &about.meaning
	}
	if about.status >= 500 && kind != face.Overloaded {
		level := slog.LevelError
		if about.status > 500 {
			level = slog.LevelWarn
		}
		s.Logger.Log(ctx, level, "request failed", "request_id", c.id, "code", c.code, "error", err)
	}
	if written, ok := w.(interface{ Status() int }); ok && written.Status() != 0 {
		return // the answer is on its way already and cannot be taken back
	}
	switch {
	case kind == face.QueueFull, kind == face.StorageFull:
		w.Header().Set("Retry-After", "30")
	case about.status == http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="likeness"`)
	case about.status == http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(about.status)
	writeBody(w, p)
}

// writeJSON answers with a JSON body.
func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	writeBody(w, body)
}

// writeBody writes JSON. Its errors are those of a caller who has gone: the
// bodies are plain structs, which always encode.
func writeBody(w http.ResponseWriter, body any) {
	_ = json.NewEncoder(w).Encode(body)
}

const problemHTML = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}} - Likeness</title>
<h1>{{.Title}}</h1>
<p><code>{{.Code}}</code>, status {{.Status}}</p>
<h2>What it means</h2>
<p>{{.Meaning}}</p>
<h2>What to do</h2>
<p>{{.Remedy}}</p>
<p><a href="../docs">The contract</a></p>
</html>
`

// problemPage is the page that explains a code; a problem's type links to it.
func (s *server) problemPage(w http.ResponseWriter, r *http.Request) {
	wanted := strings.ReplaceAll(chi.URLParam(r, "slug"), "_", "-") // a code leads there, too
	for _, kind := range face.Kinds() {
		if problemSlug(kind) != wanted {
			continue
		}
		about := explain(kind)
		p := api.ProblemPage{
			Type: s.PathPrefix + "/problems/" + wanted, Title: kind.Title(), Status: about.status,
			Code: api.ProblemCode(kind.Code()), Meaning: about.meaning, Remedy: about.remedy,
		}
		w.Header().Add("Vary", "Accept")
		if strings.Contains(r.Header.Get("Accept"), "application/json") {
			writeJSON(w, http.StatusOK, p)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_ = template.Must(template.New("problem").Parse(problemHTML)).Execute(w, p) // the caller has gone
		return
	}
	s.fail(w, r, face.Errorf(face.NotFound, "handlers.problemPage", "There is no such problem."))
}
