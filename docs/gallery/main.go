// Command gallery makes the pictures of docs/gallery with `likeness style`.
// Content and style are drawn by internal/artwork, so that nobody's rights
// are touched and everybody gets the same.
package main

import (
	"context"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/likeness-id/likeness/internal/artwork"
)

// picture is one call of likeness style.
type picture struct {
	content, style, features string
	size                     int
	sheet                    bool // with contact sheet and loss curve
}

func pictures() []picture {
	var all []picture
	contents, styles := artwork.Contents(), artwork.Styles()
	for i, content := range contents {
		for _, features := range []string{"learned", "builtin-features", "squeezenet11"} {
			all = append(all, picture{content, styles[i], features, 512, i == 0 && features == "learned"})
		}
	}
	for _, features := range []string{"builtin-features", "squeezenet11"} {
		all = append(all, picture{contents[0], styles[0], features, 1024, false})
	}
	return all
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: gallery LIKENESS FOLDER [flags of likeness style for every picture]")
		os.Exit(2)
	}
	if err := makeAll(ctx, os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "gallery:", err)
		os.Exit(1)
	}
}

// inputSize is the long side of the pictures that go in.
const inputSize = 1024

func makeAll(ctx context.Context, likeness, folder string, more []string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for _, name := range append(artwork.Contents(), artwork.Styles()...) {
		if err := write(filepath.Join(folder, name+".jpg"), artwork.Draw(name, inputSize), 88); err != nil {
			return err
		}
	}
	temp, err := os.MkdirTemp("", "gallery")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	for _, p := range pictures() {
		in := func(name string) string { return filepath.Join(folder, name+".jpg") }
		name := strings.Join([]string{p.content, p.style, p.features, strconv.Itoa(p.size)}, "-")
		out := in(name)
		if p.size > 512 { // smaller than the command writes it
			out = filepath.Join(temp, name+".png")
		}
		args := []string{
			"style", "--content", in(p.content), "--style", in(p.style), "--out", out,
			"--features", p.features, "--size", strconv.Itoa(p.size),
		}
		if p.sheet {
			args = append(args, "--sheet", in(name+"-sheet"), "--curve", filepath.Join(folder, name+"-losses.png"))
		}
		cmd := exec.CommandContext(ctx, likeness, append(args, more...)...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		fmt.Fprintln(os.Stdout, strings.Join(cmd.Args, " "))
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if out == in(name) {
			continue
		}
		img, err := read(out)
		if err != nil {
			return err
		}
		if err := write(in(name), img, 84); err != nil {
			return err
		}
	}
	return nil
}

func read(name string) (image.Image, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return png.Decode(f)
}

func write(name string, img image.Image, quality int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	err = jpeg.Encode(f, img, &jpeg.Options{Quality: quality})
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
