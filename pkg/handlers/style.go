package handlers

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"image/jpeg"
	"image/png"
	"io"
	"net/http"
	"reflect"
	"time"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/jobs"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/style"
)

const (
	// maxFollowers is how many callers may follow jobs at a time.
	maxFollowers = 100
	// followEvery is how often a job that is followed is looked at, and
	// previewEvery how often a picture of it.
	followEvery  = 250 * time.Millisecond
	previewEvery = 2 * time.Second
	// followFor ends a stream, so that keys are looked at again: its reader
	// connects anew by itself.
	followFor = 15 * time.Minute
	// followIdle is how long nothing is sent at most; a proxy may cut what says less.
	followIdle = 15 * time.Second
	// jpegQuality is that of results.
	jpegQuality = 92
)

// noJobs are the jobs of a server that makes none.
type noJobs struct{}

func errNoJobs() error {
	return face.Errorf(face.Unavailable, "handlers.style", "Style transfers are not available on this server; its log says why.")
}

func (noJobs) Submit(context.Context, jobs.Request) (jobs.Job, error) {
	return jobs.Job{}, errNoJobs()
}

func (noJobs) Job(context.Context, string, string) (jobs.Job, error) { return jobs.Job{}, errNoJobs() }

func (noJobs) Delete(context.Context, string, string) (jobs.Job, error) {
	return jobs.Job{}, errNoJobs()
}

func (noJobs) Result(context.Context, string, string) ([]byte, error) { return nil, errNoJobs() }

func (noJobs) Preview(context.Context, string, string, int) ([]byte, int, error) {
	return nil, 0, errNoJobs()
}

func (noJobs) List(context.Context, string, store.Page) ([]jobs.Job, string, error) {
	return nil, "", errNoJobs()
}

// StartStyleTransfer takes a job in.
func (s *server) StartStyleTransfer(ctx context.Context, r api.StartStyleTransferRequestObject) (api.StartStyleTransferResponseObject, error) {
	b := r.JSONBody
	params := styleParams(b.Params)
	if b.StyleWeights != nil {
		if params.StyleWeights != nil {
			return nil, api.InvalidField("style_weights", "is in params, too")
		}
		params.StyleWeights = b.StyleWeights
	}
	slot, err := s.Pipeline.Enter(ctx, callOf(ctx).reservation) // pictures are decoded, as photos are
	if err != nil {
		return nil, err
	}
	defer slot.Leave()
	id := cmp.Or(repeatableID(ctx), face.NewID())
	j, err := s.Jobs.Submit(ctx, jobs.Request{
		ID: id, Tenant: tenant(ctx), KeyID: callOf(ctx).key.ID,
		Content: b.Content, Styles: b.Style, Masks: b.Mask, Params: params, CheckIdentity: valueOr(b.CheckIdentity, false),
	})
	if err != nil {
		return nil, err
	}
	return api.StartStyleTransfer202JSONResponse{
		Headers: api.StartStyleTransfer202ResponseHeaders{Location: s.PathPrefix + "/style-transfer/" + j.ID, RetryAfter: "1"},
		Body:    api.StyleTransferAccepted{JobID: j.ID, State: api.JobState(j.State)},
	}, nil
}

// styleParams are the defaults with what the caller said.
func styleParams(said *api.StyleParams) style.Params {
	p := style.DefaultParams()
	if said == nil {
		return p
	}
	setParam(&p.Features, said.Features)
	setParam(&p.Size, said.Size)
	setParam(&p.Iterations, said.Iterations)
	setParam(&p.Weights, said.Weights)
	setParam(&p.ContentWeight, said.ContentWeight)
	setParam(&p.StyleWeight, said.StyleWeight)
	setParam(&p.TVWeight, said.TvWeight)
	setParam(&p.Optimizer, said.Optimizer)
	setParam(&p.Init, said.Init)
	setParam(&p.PreserveColor, said.PreserveColor)
	setParam(&p.StyleScale, said.StyleScale)
	setParam(&p.Seed, said.Seed)
	if said.Layers != nil {
		p.Layers = style.Layers{Content: said.Layers.Content, Style: said.Layers.Style}
	}
	p.StyleWeights = said.StyleWeights
	return p
}

// setParam sets what was said; an enum is the text that it is.
func setParam[T, F any](to *T, from *F) {
	if from != nil {
		reflect.ValueOf(to).Elem().Set(reflect.ValueOf(*from).Convert(reflect.TypeFor[T]()))
	}
}

// ListStyleTransfers lists the tenant's jobs.
func (s *server) ListStyleTransfers(ctx context.Context, r api.ListStyleTransfersRequestObject) (api.ListStyleTransfersResponseObject, error) {
	p := pageOf(r.Params.Limit, r.Params.Cursor)
	items, next, err := s.Jobs.List(ctx, tenant(ctx), p)
	if err != nil {
		return nil, err
	}
	answer := api.ListStyleTransfers200JSONResponse{Items: make([]api.StyleTransfer, len(items)), NextCursor: optionalText(next)}
	for i, j := range items {
		answer.Items[i] = styleTransfer(j)
	}
	return answer, nil
}

// GetStyleTransfer shows a job.
func (s *server) GetStyleTransfer(ctx context.Context, r api.GetStyleTransferRequestObject) (api.GetStyleTransferResponseObject, error) {
	j, err := s.Jobs.Job(ctx, tenant(ctx), r.Job)
	return api.GetStyleTransfer200JSONResponse(styleTransfer(j)), err
}

// DeleteStyleTransfer cancels or erases a job.
func (s *server) DeleteStyleTransfer(ctx context.Context, r api.DeleteStyleTransferRequestObject) (api.DeleteStyleTransferResponseObject, error) {
	j, err := s.Jobs.Delete(ctx, tenant(ctx), r.Job)
	return api.DeleteStyleTransfer200JSONResponse(styleTransfer(j)), err
}

// GetStyleTransferResult gives the picture out.
func (s *server) GetStyleTransferResult(ctx context.Context, r api.GetStyleTransferResultRequestObject) (api.GetStyleTransferResultResponseObject, error) {
	format := valueOr(r.Params.Format, api.PictureFormatPng)
	data, err := s.Jobs.Result(ctx, tenant(ctx), r.Job)
	if err != nil {
		return nil, err
	}
	if format == api.PictureFormatPng {
		return api.GetStyleTransferResult200ImagePngResponse{Body: bytes.NewReader(data), ContentLength: int64(len(data))}, nil
	}
	slot, err := s.Pipeline.Enter(ctx, callOf(ctx).reservation) // pictures are decoded, as photos are
	if err != nil {
		return nil, err
	}
	defer slot.Leave()
	img, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, face.Wrap(face.Internal, "handlers.result", err)
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, &jpeg.Options{Quality: jpegQuality}); err != nil {
		return nil, face.Wrap(face.Internal, "handlers.result", err)
	}
	return api.GetStyleTransferResult200ImageJpegResponse{Body: &b, ContentLength: int64(b.Len())}, nil
}

// styleTransfer is a job as the contract has it.
func styleTransfer(j jobs.Job) api.StyleTransfer {
	t := api.StyleTransfer{
		JobID: j.ID, State: api.JobState(j.State), Progress: j.Progress(), Iteration: j.Iteration, Iterations: j.Iterations,
		CreatedAt: j.CreatedAt, StartedAt: moment(j.StartedAt), FinishedAt: moment(j.FinishedAt),
		Canceling: unlessZero(j.Canceling), Width: unlessZero(j.Width), Height: unlessZero(j.Height), Shrunk: unlessZero(j.Shrunk),
	}
	if j.Iteration > 0 {
		t.Loss = &api.StyleLoss{Total: j.Loss.Total, Content: j.Loss.Content, Style: j.Loss.Style, Tv: j.Loss.TV}
	}
	if !j.State.Final() {
		t.EtaSeconds = unlessZero(j.ETA.Seconds())
	}
	if p := j.Problem; p != nil {
		t.Problem = &api.JobProblem{Code: api.ProblemCode(p.Code), Title: p.Title, Detail: optionalText(p.Detail)}
	}
	if i := j.Identity; i != nil {
		t.IdentityModelID, t.IdentityReason = optionalText(i.ModelID), unlessZero(i.Reason)
		t.IdentityPicture = unlessZero(api.StyleTransferIdentityPicture(i.Picture))
		if i.Reason == "" {
			t.IdentityScore, t.IdentityMatch, t.IdentityOperatingPoint = &i.Score, i.Match, optionalText(i.OperatingPoint)
		}
	}
	return t
}

func moment(t time.Time) *time.Time { return unlessZero(t) }

// unlessZero is a pointer to what says something.
func unlessZero[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// FollowStyleTransfer tells of a job as it goes on.
func (s *server) FollowStyleTransfer(ctx context.Context, r api.FollowStyleTransferRequestObject) (api.FollowStyleTransferResponseObject, error) {
	j, err := s.Jobs.Job(ctx, tenant(ctx), r.Job)
	if err != nil {
		return nil, err
	}
	if callOf(ctx).head {
		return nothing("text/event-stream"), nil
	}
	return &following{server: s, ctx: ctx, job: j, preview: valueOr(r.Params.Preview, false)}, nil
}

// following is a stream of events of a job.
type following struct {
	*server
	ctx     context.Context // the request's, which the generated interface does not hand on
	job     jobs.Job
	preview bool

	w    http.ResponseWriter
	conn *http.ResponseController
	last []byte    // job that was told
	said time.Time // when something was sent
	seen int       // number of the last preview
}

// VisitFollowStyleTransferResponse sends the events. Its error is one that came
// before anything was answered.
func (f *following) VisitFollowStyleTransferResponse(w http.ResponseWriter) error {
	key := callOf(f.ctx).key
	if !f.followers.take(key, 1) {
		return face.Errorf(face.Overloaded, "handlers.follow", "too many callers follow jobs, or too many of the key or the tenant")
	}
	defer f.followers.give(key, 1)
	f.w, f.conn = w, http.NewResponseController(w)
	_ = f.conn.SetReadDeadline(time.Time{}) // a writer without a connection has none
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy that gathers would make it useless
	w.WriteHeader(http.StatusOK)
	ctx, cancel := context.WithTimeout(f.ctx, followFor)
	defer cancel()
	f.follow(ctx)
	return nil
}

// follow sends what is new until the job ends, or the reader goes.
func (f *following) follow(ctx context.Context) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	var previewed time.Time
	for {
		if f.preview && !f.job.State.Final() && time.Since(previewed) >= previewEvery {
			previewed = time.Now()
			data, seen, err := f.Jobs.Preview(ctx, f.job.Tenant, f.job.ID, f.seen)
			if err == nil && data != nil {
				f.seen = seen
				err = f.send("preview", api.StyleTransferPreview{Png: data})
			}
			if err != nil {
				f.ended(err)
				return
			}
		}
		if err := f.tell(); err != nil || f.job.State.Final() {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		case <-f.Draining:
			return
		}
		j, err := f.Jobs.Job(ctx, f.job.Tenant, f.job.ID)
		if err != nil {
			f.ended(err)
			return
		}
		f.job = j
	}
}

// ended logs why a stream ends early. The reader connects anew, and is told
// then.
func (f *following) ended(err error) {
	if explain(face.KindOf(err)).status >= http.StatusInternalServerError {
		f.Logger.WarnContext(f.ctx, "following a job failed", "request_id", callOf(f.ctx).id, "error", err)
	}
}

// tell sends the job where it has changed, or a sign of life now and then.
func (f *following) tell() error {
	now := styleTransfer(f.job)
	text, err := json.Marshal(now)
	if err != nil {
		return err
	}
	switch {
	case !bytes.Equal(text, f.last):
		f.last = text
		return f.send("job", now)
	case time.Since(f.said) >= followIdle:
		return f.write(": still here\n\n")
	}
	return nil
}

func (f *following) send(event string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return f.write(fmt.Sprintf("event: %s\ndata: %s\n\n", event, text))
}

func (f *following) write(text string) error {
	f.said = time.Now()
	_ = f.conn.SetWriteDeadline(time.Now().Add(followIdle)) // a writer without a connection has none
	if _, err := io.WriteString(f.w, text); err != nil {
		return err
	}
	return f.conn.Flush()
}
