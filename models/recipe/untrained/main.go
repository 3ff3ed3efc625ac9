// The command untrained writes the encoder that `likeness train --from` begins
// with, so that models/recipe can teach the same graph on a graphics card:
//
//	go run ./models/recipe/untrained residual 256 student.onnx
package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/likeness-id/likeness/pkg/siamese"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "untrained:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("want an architecture of %q, a dimension and a file", siamese.Architectures())
	}
	dimension, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	const seed = 1
	model, err := siamese.Untrained(args[0], dimension, 1, seed)
	if err != nil {
		return err
	}
	return os.WriteFile(args[2], model, 0o600)
}
