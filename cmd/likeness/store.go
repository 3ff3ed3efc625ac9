package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/likeness-id/likeness/pkg/app"
	"github.com/likeness-id/likeness/pkg/store"
)

type storeCmd struct {
	Check storeCheck `cmd:"" help:"Check everything in a store, and name what is damaged or inconsistent."`
}

type storeCheck struct {
	keyStore
	JSON bool `name:"json" help:"Print the findings as JSON: one object with the store and a list."`
}

// Help is what --help says beside the flags.
func (storeCheck) Help() string {
	return "It reads the whole store and changes nothing. The server may be running. " +
		"It checks the pages and indexes of an embedded store, references between rows, every embedding, the counts of the galleries, the crops and the audit chain. " +
		"Each finding says how to repair it. The exit code is 0 if nothing is wrong, and 1 if something is wrong or the check failed."
}

func (c storeCheck) Run(t *tool) error {
	if err := c.requireExisting(); err != nil {
		return err
	}
	name, _, err := c.describe()
	if err != nil {
		return err
	}
	report := struct {
		Store    string          `json:"store"`
		Findings []store.Finding `json:"findings"`
	}{name, []store.Finding{}}
	err = app.CheckStore(t.ctx, c.location(), func(f store.Finding) error {
		report.Findings = append(report.Findings, f)
		if c.JSON {
			return nil
		}
		_, err := fmt.Fprintf(t.stdout, "%s: %s%s\n  mend: %s\n", f.Check, describeOwner(f), printable(f.Detail), printable(f.Mend))
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %s", name, explain(err))
	}
	n := len(report.Findings)
	if c.JSON {
		err = json.NewEncoder(t.stdout).Encode(report)
	} else if n == 0 {
		_, err = fmt.Fprintf(t.stdout, "nothing is wrong with %s\n", name)
	}
	if err == nil && n > 0 {
		err = fmt.Errorf("findings in %s: %d", name, n)
	}
	return err
}

// describeOwner names what a finding is about.
func describeOwner(f store.Finding) string {
	var parts []string
	for _, p := range [][2]string{{"tenant", f.Tenant}, {"gallery", f.Gallery}, {"subject", f.SubjectID}, {"template", f.TemplateID}} {
		if p[1] != "" {
			parts = append(parts, p[0]+" "+printable(p[1]))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, ", ") + ": "
}
