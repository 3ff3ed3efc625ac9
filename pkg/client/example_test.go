package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"sync"

	"github.com/likeness-id/likeness/pkg/client"
)

// address is where the server of the examples answers.
var address = sync.OnceValue(func() string {
	dir, err := os.MkdirTemp("", "likeness-example-")
	if err != nil {
		log.Fatal(err)
	}
	url, _, err := start(dir)
	if err != nil {
		log.Fatal(err)
	}
	return url
})

// Do two photos show the same person?
func Example() {
	ctx := context.Background()
	c, err := client.New(address(), client.DefaultOptions())
	if err != nil {
		log.Fatal(err)
	}
	passport, _ := os.ReadFile("../../internal/testfaces/person-1-1.jpg")
	selfie, _ := os.Open("../../internal/testfaces/person-1-2.jpg")
	defer selfie.Close()
	v, err := c.Verify(ctx, client.VerifyForm{
		Probe:     client.PhotoReader(selfie),
		Reference: client.PhotoBytes(passport),
	})
	switch {
	case errors.Is(err, client.ProblemCodeNoFace), errors.Is(err, client.ProblemCodeLowQuality):
		fmt.Println("please take another photo:", err)
	case err != nil:
		log.Fatal(err)
	default:
		fmt.Println("same person:", v.Match)
	}
	// Output: same person: true
}

// Who is this? A subject is made and enrolled from one photo, and found again.
func ExampleClient_Recognize() {
	ctx := context.Background()
	c, err := client.New(address(), client.Options{Key: os.Getenv("LIKENESS_KEY")})
	if err != nil {
		log.Fatal(err)
	}
	enrolled, _ := os.ReadFile("../../internal/testfaces/person-2-1.jpg")
	probe, _ := os.ReadFile("../../internal/testfaces/person-2-2.jpg")
	if _, err := c.CreateSubject(ctx, "default", client.SubjectCreate{SubjectID: new("grace")}); err != nil {
		log.Fatal(err)
	}
	if _, err := c.EnrolTemplate(ctx, "default", "grace", client.EnrolForm{Image: client.PhotoBytes(enrolled)}); err != nil {
		log.Fatal(err)
	}
	found, err := c.Recognize(ctx, client.RecognizeForm{Probe: []client.Photo{client.PhotoBytes(probe)}})
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range found.Faces {
		fmt.Println(f.Decision, f.Candidates[0].SubjectID)
	}
	// Output: match grace
}

// Subjects go in and come out a line at a time, however many they are.
func ExampleClient_ImportSubjects() {
	ctx := context.Background()
	c, err := client.New(address(), client.DefaultOptions())
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.CreateGallery(ctx, client.GalleryCreate{Name: "visitors"}); err != nil {
		log.Fatal(err)
	}
	lines := bytes.NewBufferString(`{"subject_id":"ada"}` + "\n" + `{"subject_id":"no id"}` + "\n")
	in, err := c.ImportSubjects(ctx, "visitors", lines, client.ImportOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer in.Close()
	for result, err := range in.Results() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(result.Line, result.Status)
	}
	for s, err := range c.ExportSubjects(ctx, "visitors", client.ExportOptions{}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(s.SubjectID, "of", in.Summary().Lines, "lines")
	}
	// Output:
	// 1 created
	// 2 refused
	// ada of 2 lines
}
