package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
)

// migratePoll is how often --wait asks how far it is.
const migratePoll = 500 * time.Millisecond

// migrationFlags say which move of which server is meant.
type migrationFlags struct {
	serverFlags
	ID      string `arg:"" help:"Encoder that galleries are moved to."`
	Gallery string `placeholder:"NAME" help:"One gallery (default: all of the key's tenant)."`
}

// Validate refuses what no server could be asked.
func (c migrationFlags) Validate() error {
	if !face.ValidID(c.ID) {
		return fmt.Errorf("%q is no model id", c.ID)
	}
	if c.Gallery != "" && !face.ValidID(c.Gallery) {
		return fmt.Errorf("--gallery: %q is not 1 to 128 letters, digits and ._@-", c.Gallery)
	}
	return c.serverFlags.Validate()
}

// migration is one gallery's move, as the server tells it.
type migration struct {
	Gallery    string  `json:"gallery"`
	State      string  `json:"state"`
	Subjects   int     `json:"subjects"`
	Covered    int     `json:"covered"`
	Pending    int     `json:"pending"`
	Uncovered  int     `json:"uncovered"`
	ETASeconds float64 `json:"eta_seconds"`
}

// ask sends a request about the move and lists the galleries of the answer.
func (c migrationFlags) ask(ctx context.Context, api *client, method string) ([]migration, error) {
	r := request{method: method, url: api.base.JoinPath("models", c.ID, "migrate")}
	switch {
	case method == http.MethodPost:
		body := map[string]string{}
		if c.Gallery != "" {
			body["gallery"] = c.Gallery
		}
		var err error
		if r.body, err = json.Marshal(body); err != nil {
			return nil, err
		}
		r.contentType = "application/json"
	case c.Gallery != "":
		r.url.RawQuery = url.Values{"gallery": {c.Gallery}}.Encode()
	}
	var answer struct {
		Items []migration `json:"items"`
	}
	_, err := api.do(ctx, r, &answer)
	return answer.Items, err
}

// print shows the galleries as a table.
func (c migrationFlags) print(t *tool, list []migration) error {
	w := tabwriter.NewWriter(t.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "GALLERY\tSTATE\tSUBJECTS\tCOVERED\tPENDING CROPS\tNEED A PHOTO\tTIME LEFT")
	for _, m := range list {
		left := "-"
		if m.ETASeconds > 0 {
			left = time.Duration(m.ETASeconds * float64(time.Second)).Round(time.Second).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%s\n", m.Gallery, m.State, m.Subjects, m.Covered, m.Pending, m.Uncovered, left)
	}
	return w.Flush()
}

type modelsMigrate struct {
	migrationFlags
	Wait   bool `xor:"what" help:"Wait until nothing more can be done; exit with 1 when somebody needs a new photo."`
	Cancel bool `xor:"what" help:"End the move instead: galleries stay with the encoder that they are searched with."`
}

// Help is what --help says beside the flags.
func (modelsMigrate) Help() string {
	return "A gallery is searched with its old encoder until everybody in it has a template of the new one. Templates are made of " +
		"the crops that galleries with store_images keep; `likeness models status ID --uncovered` lists who needs a new photo. " +
		"The way back is the same for the old encoder. The key needs the scope admin."
}

func (c modelsMigrate) Run(t *tool) error {
	api, err := c.connect(t, 1)
	if err != nil {
		return err
	}
	defer api.http.CloseIdleConnections()
	method := http.MethodPost
	if c.Cancel {
		method = http.MethodDelete
	}
	list, err := c.ask(t.ctx, api, method)
	if err != nil {
		return err
	}
	if c.Wait && !c.Cancel {
		if list, err = c.wait(t, api); err != nil {
			return err
		}
	}
	if err := c.print(t, list); err != nil {
		return err
	}
	need := 0
	for _, m := range list {
		if m.State == "waiting_for_photos" {
			need += m.Uncovered
		}
	}
	if c.Wait && need > 0 {
		return fmt.Errorf("%d subjects need a new photo: `likeness models status %s --uncovered` lists them", need, c.ID)
	}
	return nil
}

// wait shows how far the move is until no gallery is under way.
func (c modelsMigrate) wait(t *tool, api *client) ([]migration, error) {
	var bar *progress
	for {
		list, err := c.ask(t.ctx, api, http.MethodGet)
		if err != nil {
			return nil, err
		}
		subjects, covered, running := 0, 0, false
		for _, m := range list {
			subjects, covered = subjects+m.Subjects, covered+m.Covered
			running = running || m.State == "running"
		}
		if bar == nil {
			bar = newProgress(t.stderr, "subjects with a template of "+c.ID, int64(subjects), false)
			defer bar.Close()
		}
		bar.Set(int64(covered))
		if !running {
			return list, nil
		}
		select {
		case <-t.ctx.Done():
			return nil, t.ctx.Err() // the move goes on without us
		case <-time.After(migratePoll):
		}
	}
}

type modelsStatus struct {
	migrationFlags
	Uncovered bool `help:"List the subjects who need a new photo: gallery, subject and why."`
}

// Help is what --help says beside the flags.
func (modelsStatus) Help() string { return "The key needs the scope admin." }

func (c modelsStatus) Run(t *tool) error {
	api, err := c.connect(t, 1)
	if err != nil {
		return err
	}
	defer api.http.CloseIdleConnections()
	list, err := c.ask(t.ctx, api, http.MethodGet)
	if err != nil {
		return err
	}
	if !c.Uncovered {
		return c.print(t, list)
	}
	for _, m := range list {
		if err := c.uncovered(t, api, m.Gallery); err != nil {
			return err
		}
	}
	return nil
}

// uncovered lists the subjects of a gallery who need a new photo.
func (c modelsStatus) uncovered(t *tool, api *client, gallery string) error {
	query := url.Values{"model_id": {c.ID}, "limit": {"1000"}}
	for {
		where := api.base.JoinPath("galleries", gallery, "uncovered")
		where.RawQuery = query.Encode()
		var page struct {
			Items []struct {
				SubjectID string `json:"subject_id"`
				Reason    string `json:"reason"`
			} `json:"items"`
			NextCursor string `json:"next_cursor"`
		}
		if _, err := api.do(t.ctx, request{method: http.MethodGet, url: where}, &page); err != nil {
			return err
		}
		for _, s := range page.Items {
			fmt.Fprintf(t.stdout, "%s\t%s\t%s\n", gallery, s.SubjectID, s.Reason)
		}
		if page.NextCursor == "" {
			return nil
		}
		query.Set("cursor", page.NextCursor)
	}
}
