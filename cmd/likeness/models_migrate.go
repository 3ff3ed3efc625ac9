package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/likeness-id/likeness/pkg/client"
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

// gallery is the one gallery that is meant, or nil.
func (c migrationFlags) gallery() *string {
	if c.Gallery == "" {
		return nil
	}
	return &c.Gallery
}

// print shows the galleries as a table.
func (c migrationFlags) print(t *tool, list []client.Migration) error {
	w := tabwriter.NewWriter(t.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "GALLERY\tSTATE\tSUBJECTS\tCOVERED\tPENDING CROPS\tNEED A PHOTO\tTIME LEFT")
	for _, m := range list {
		left := "-"
		if m.EtaSeconds != nil && *m.EtaSeconds > 0 {
			left = time.Duration(*m.EtaSeconds * float64(time.Second)).Round(time.Second).String()
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
	defer api.CloseIdleConnections()
	var list *client.MigrationList
	if c.Cancel {
		list, err = api.CancelMigration(t.ctx, c.ID, client.CancelMigrationParams{Gallery: c.gallery()})
	} else {
		list, err = api.Migrate(t.ctx, c.ID, client.MigrateRequest{Gallery: c.gallery()})
	}
	if err == nil && c.Wait && !c.Cancel {
		list, err = c.wait(t, api)
	}
	if err != nil {
		return err
	}
	if err := c.print(t, list.Items); err != nil {
		return err
	}
	need := 0
	for _, m := range list.Items {
		if m.State == client.MigrationStateWaitingForPhotos {
			need += m.Uncovered
		}
	}
	if c.Wait && need > 0 {
		return fmt.Errorf("%d subjects need a new photo: `likeness models status %s --uncovered` lists them", need, c.ID)
	}
	return nil
}

// wait shows how far the move is until no gallery is under way.
func (c modelsMigrate) wait(t *tool, api *client.Client) (*client.MigrationList, error) {
	var bar *progress
	for {
		list, err := api.GetMigration(t.ctx, c.ID, client.GetMigrationParams{Gallery: c.gallery()})
		if err != nil {
			return nil, err
		}
		subjects, covered, running := 0, 0, false
		for _, m := range list.Items {
			subjects, covered = subjects+m.Subjects, covered+m.Covered
			running = running || m.State == client.MigrationStateRunning
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
	defer api.CloseIdleConnections()
	list, err := api.GetMigration(t.ctx, c.ID, client.GetMigrationParams{Gallery: c.gallery()})
	if err != nil {
		return err
	}
	if !c.Uncovered {
		return c.print(t, list.Items)
	}
	for _, m := range list.Items {
		if err := c.uncovered(t, api, m.Gallery); err != nil {
			return err
		}
	}
	return nil
}

// uncovered lists the subjects of a gallery who need a new photo.
func (c modelsStatus) uncovered(t *tool, api *client.Client, gallery string) error {
	for s, err := range api.AllUncovered(t.ctx, gallery, client.ListUncoveredParams{ModelID: &c.ID, Limit: new(1000)}) {
		if err != nil {
			return err
		}
		fmt.Fprintf(t.stdout, "%s\t%s\t%s\n", gallery, s.SubjectID, s.Reason)
	}
	return nil
}
