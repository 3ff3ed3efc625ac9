package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

type backupCmd struct {
	keyStore
	To        string `arg:"" type:"path" placeholder:"DIR" help:"Folder of the backup, which is created, such as backups/2026-11-30."`
	Overwrite bool   `help:"Replace an existing backup when the new one is complete."`
}

// Help is what --help says beside the flags.
func (backupCmd) Help() string {
	return "The copy shows one moment: it contains everything that was acknowledged before. It is checked before it gets its name: its integrity, the rows of each table, the audit chain. " +
		"It contains embeddings, pictures and hashes of keys: protect it. It does not contain the keys of --crop-key-file and the models. Use pg_dump for a Postgres."
}

func (c backupCmd) Run(t *tool) error {
	files, err := c.files()
	if err != nil {
		return err
	}
	if err := c.requireExisting(); err != nil {
		return err
	}
	shown := &copied{t: t}
	m, err := sqlite.Backup(t.ctx, sqlite.BackupOptions{Files: files, To: c.To, Overwrite: c.Overwrite, Progress: shown.show})
	shown.close()
	if errors.Is(err, face.Conflict) && !c.Overwrite {
		return fmt.Errorf("%s; --overwrite replaces it", explain(err))
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(t.stdout, "%s: the store as it was at %s, read back\n", c.To, m.MadeAt.Format(time.RFC3339))
	printRows(t, m)
	return nil
}

// printRows says how much is in a backup.
func printRows(t *tool, m sqlite.Manifest) {
	store := m.Files["likeness.db"].Rows
	fmt.Fprintf(t.stdout, "%d galleries, %d subjects, %d templates, %d keys, %d audit records, %d style jobs\n",
		store["gallery"], store["subject"], store["template"], store["api_key"], m.Audit.Records, m.Files["jobs.db"].Rows["style_job"])
}

// files are the databases of the store.
func (s keyStore) files() (sqlite.Files, error) {
	files, err := s.location().Files()
	if errors.Is(err, face.Invalid) {
		err = usageError{fmt.Errorf("--database-url: %s", explain(err))}
	}
	return files, err
}

// copied shows how many bytes are copied.
type copied struct {
	t *tool
	p *progress
}

func (c *copied) show(done, total int64) {
	if c.p == nil {
		c.p = newProgress(c.t.stderr, "copied", total, true)
	}
	c.p.Set(done)
}

func (c *copied) close() {
	if c.p != nil {
		c.p.Close()
	}
}

type restoreCmd struct {
	keyStore
	From    string `arg:"" type:"existingdir" placeholder:"DIR" help:"Folder that likeness backup made."`
	Replace bool   `help:"Replace an existing store. Its files are kept beside it."`
}

// Help is what --help says beside the flags.
func (restoreCmd) Help() string {
	return "The backup is checked first. Erasures and revoked keys that are newer than the backup are read from the existing store, repeated, and listed. " +
		"If that store is lost or damaged, they are not known, and you must repeat them. Everything else is as it was at the time of the backup: style jobs and pictures that were deleted later, and old settings, are back."
}

func (c restoreCmd) Run(t *tool) error {
	files, err := c.files()
	if err != nil {
		return err
	}
	shown := &copied{t: t}
	r, err := sqlite.Restore(t.ctx, sqlite.RestoreOptions{Files: files, From: c.From, Replace: c.Replace, Progress: shown.show})
	shown.close()
	switch {
	case errors.Is(err, face.Conflict):
		return fmt.Errorf("%s; --replace keeps its files aside and puts the backup in its place", explain(err))
	case err != nil:
		return err
	}
	if r.Aside != "" {
		fmt.Fprintf(t.stdout, "the replaced files are in %s: remove them when they are no longer needed, because they contain personal data\n", r.Aside)
	}
	if r.Finished {
		fmt.Fprintln(t.stdout, "a restore that was cut off is finished; to restore another backup, call this again")
		return nil
	}
	fmt.Fprintf(t.stdout, "%s: the store as it was at %s\n", files.Store, r.Manifest.MadeAt.Format(time.RFC3339))
	printRows(t, r.Manifest)
	for _, e := range r.Erased {
		what := slices.DeleteFunc([]string{e.Tenant, e.Gallery, e.SubjectID, e.TemplateID}, func(s string) bool { return s == "" })
		fmt.Fprintf(t.stdout, "erased again\t%s\t%s\t%s\n", e.Time().Format(time.RFC3339), e.Action, printable(strings.Join(what, "/")))
	}
	if r.Revoked > 0 {
		fmt.Fprintf(t.stdout, "%d keys that were revoked since are revoked again\n", r.Revoked)
	}
	if r.Unknown != nil {
		fmt.Fprintf(t.stderr, "likeness: WARNING: who was erased and which keys were revoked after %s is not known (%s). They are back: "+
			"erase and revoke them again, by the receipts or by `likeness audit list` of another copy of %s\n",
			r.Manifest.MadeAt.Format(time.RFC3339), explain(r.Unknown), filepath.Base(files.Store))
	}
	return nil
}
