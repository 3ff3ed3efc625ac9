package app_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"os"

	"github.com/likeness-id/likeness/pkg/app"
)

// The whole service inside another program: it listens until it is stopped.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "likeness-*")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	options := app.DefaultOptions()
	options.Listen, options.DataDir = "127.0.0.1:0", dir // a free port
	options.Auth = "off"                                 // this machine alone can reach it
	options.DiskReserve = 0
	service, err := app.New(ctx, options, "example", slog.New(slog.DiscardHandler))
	if err != nil {
		log.Fatal(err)
	}
	service.Start()
	answer, err := http.Get("http://" + service.Addr() + "/healthz")
	if err != nil {
		log.Fatal(err)
	}
	text, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	fmt.Println(answer.Status, string(text), err)
	http.DefaultClient.CloseIdleConnections()
	if err := service.Stop(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: 200 OK {"status":"ok"}
	//  <nil>
}
