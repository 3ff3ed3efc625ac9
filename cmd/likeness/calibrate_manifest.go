package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
)

// printCalibration writes the calibration as a manifest contains it: one point a
// line.
func printCalibration(w io.Writer, cal face.Calibration) error {
	_, err := fmt.Fprintf(w, "%s\n", formatCalibration(cal, ""))
	return err
}

// formatCalibration is the calibration as JSON, one point a line, all lines
// but the first indented.
func formatCalibration(cal face.Calibration, indent string) []byte {
	var b bytes.Buffer
	writeLine := func(depth int, format string, args ...any) {
		b.WriteString("\n" + indent + strings.Repeat("  ", depth))
		fmt.Fprintf(&b, format, args...)
	}
	b.WriteString("{")
	writeLine(1, `"source": %s,`, quoteJSON(cal.Source))
	writeLine(1, `"comparisons": %d,`, cal.Comparisons)
	writeLine(1, `"points": [`)
	for i, p := range cal.Points {
		interval := ""
		if p.Interval != (face.Interval{}) {
			interval = fmt.Sprintf(`, "interval": { "low": %.3g, "high": %.3g }`, p.Interval.Low, p.Interval.High)
		}
		writeLine(2, `{ "name": %s, "fmr": %v, "threshold": %v%s }%s`, quoteJSON(p.Name), p.FMR, p.Threshold, interval, commaUnlessLast(i, len(cal.Points)))
	}
	writeLine(1, `],`)
	writeLine(1, `"curve": [`)
	for i, p := range cal.Curve {
		writeLine(2, `{ "score": %v, "fmr": %v }%s`, p.Score, p.FMR, commaUnlessLast(i, len(cal.Curve)))
	}
	writeLine(1, `]`)
	writeLine(0, `}`)
	return b.Bytes()
}

// commaUnlessLast is what comes after the i-th of n elements.
func commaUnlessLast(i, n int) string {
	if i == n-1 {
		return ""
	}
	return ","
}

// quoteJSON is a text as a JSON string.
func quoteJSON(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return []byte(`""`)
	}
	return bytes.TrimSpace(b.Bytes())
}

// writeManifest writes the calibration, and the head if there is one, into the
// manifest in a file, and leaves the rest of its text unchanged. A file that does
// not exist is made from the model's manifest. The result is checked before it
// replaces the file.
func writeManifest(name string, model embed.Manifest, cal face.Calibration, head *face.Head) error {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		model.Calibration = nil
		if head != nil {
			model.Head = nil
		}
		text, err = json.MarshalIndent(model, "", "  ")
		text = append(text, '\n')
	}
	if err != nil {
		return err
	}
	old, err := embed.ParseManifest(text)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if old.ID != model.ID || old.SHA256 != model.SHA256 {
		return fmt.Errorf("%s is the manifest of another model, %s; the scores of %s say nothing about it", name, old.ID, model.ID)
	}
	text, err = replaceMember(text, "calibration", formatCalibration(cal, "  "))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if head != nil {
		if text, err = replaceMember(text, "head", formatHead(*head, "  ")); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if _, err := embed.ParseManifest(text); err != nil {
		return fmt.Errorf("%s would no longer be a valid manifest: %w", name, err)
	}
	return replaceFile(name, text)
}

// replaceMember replaces the value of a member of a JSON object, or appends
// the member, and keeps every other byte.
func replaceMember(object []byte, member string, value []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil { // the opening brace
		return nil, err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		var old json.RawMessage
		if err := d.Decode(&old); err != nil {
			return nil, err
		}
		if end := int(d.InputOffset()); key == member {
			return bytes.Join([][]byte{object[:end-len(old)], value, object[end:]}, nil), nil
		}
	}
	last := bytes.TrimRight(object[:d.InputOffset()], " \t\r\n")
	return bytes.Join([][]byte{last, []byte(",\n  " + string(quoteJSON(member)) + ": "), value, object[len(last):]}, nil), nil
}

// formatHead is the head as JSON, eight weights a line, all lines but the first
// indented.
func formatHead(h face.Head, indent string) []byte {
	var b bytes.Buffer
	writeLine := func(depth int, format string, args ...any) {
		b.WriteString("\n" + indent + strings.Repeat("  ", depth))
		fmt.Fprintf(&b, format, args...)
	}
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	pairs := func(c face.PairCount) string {
		return fmt.Sprintf(`"people": %d, "mated": %d, "impostor": %d`, c.People, c.Mated, c.Impostor)
	}
	b.WriteString("{")
	writeLine(1, `"source": %s,`, quoteJSON(h.Source))
	writeLine(1, `"variant": %s,`, quoteJSON(string(h.Variant)))
	writeLine(1, `"prior": %s,`, number(h.Prior))
	writeLine(1, `"bias": %s,`, number(h.Bias))
	writeLine(1, `"platt": { "slope": %s, "offset": %s },`, number(h.Platt.Slope), number(h.Platt.Offset))
	writeLine(1, `"trained": { %s },`, pairs(h.Trained))
	writeLine(1, `"held_out": { %s, "accuracy": %.5g, "expected_calibration_error": %.3g },`, pairs(h.HeldOut.PairCount), h.HeldOut.Accuracy, h.HeldOut.ECE)
	writeLine(1, `"weights": [`)
	for i, v := range h.Weights {
		if i%8 == 0 {
			writeLine(2, "")
		} else {
			b.WriteString(" ")
		}
		b.WriteString(number(v) + commaUnlessLast(i, len(h.Weights)))
	}
	writeLine(1, `]`)
	writeLine(0, `}`)
	return b.Bytes()
}
