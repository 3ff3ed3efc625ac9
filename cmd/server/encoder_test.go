package main_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/likeness-id/likeness/internal/sharedtest"
)

// TestConvertedEncoder serves with intel-0095, made of the published files in
// the data folder or found in a models folder. The manifest in that folder has
// no calibration: the built-in one counts.
func TestConvertedEncoder(t *testing.T) {
	t.Parallel()
	const model = "face-reidentification-retail-0095"
	photo := func(name string) []byte { return sharedtest.Photo(t, "lfw/"+name+".jpg") }
	enrolled, mated, stranger := photo("Colin_Powell/Colin_Powell_0001"), photo("Colin_Powell/Colin_Powell_0002"), photo("Tony_Blair/Tony_Blair_0002")
	folder := filepath.Dir(sharedtest.Path(t, "models/"+model+".onnx"))
	graph, weights := sharedtest.Path(t, "models/openvino/"+model+".xml"), sharedtest.Path(t, "models/openvino/"+model+".bin")
	for name, converted := range map[string]bool{"converted": true, "models folder": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, env := t.TempDir(), []string{"LIKENESS_AUTH=off", "LIKENESS_ENCODER=intel-0095"}
			if converted {
				convert := exec.Command(filepath.Join(bin, "likeness"), "models", "convert", "intel-0095", graph, weights, "--data-dir", data)
				convert.Env = testEnvironment()
				if out, err := convert.CombinedOutput(); err != nil {
					t.Fatalf("models convert: %v\n%s", err, out)
				}
			} else {
				env = append(env, "LIKENESS_MODELS_DIR="+folder)
			}
			s := startServer(t, data, env...)
			s.call("POST", "/galleries/default/subjects", "", 201, "application/json", []byte(`{"subject_id":"colin"}`))
			body, ct := multipartBody(t, map[string]any{"image": enrolled})
			if v := s.call("POST", "/galleries/default/subjects/colin/templates", "", 201, ct, body); v["model_id"] != "intel-0095" {
				t.Errorf("enrolled: %v", v)
			}
			for _, tt := range []struct {
				photo    []byte
				match    bool
				decision string
			}{{mated, true, "match"}, {stranger, false, "unknown"}} {
				body, ct := multipartBody(t, map[string]any{"probe": tt.photo, "subject_id": "colin"})
				v := s.call("POST", "/verify", "", 200, ct, body)
				probability, given := v["probability"].(float64)
				if v["match"] != tt.match || v["model_id"] != "intel-0095" || v["operating_point"] != "fmr_1e-4" || !given || probability > 0.5 != tt.match {
					t.Errorf("verify: %v", v)
				}
				body, ct = multipartBody(t, map[string]any{"probe": tt.photo, "faces": "largest"})
				if faces := s.call("POST", "/recognize", "", 200, ct, body)["faces"].([]any); faces[0].(map[string]any)["decision"] != tt.decision {
					t.Errorf("recognize: %v", faces)
				}
			}
			s.signal(syscall.SIGTERM)
			if err := <-s.exited; err != nil || !strings.Contains(s.log.String(), "intel-0095") {
				t.Errorf("after SIGTERM: %v", err)
			}
		})
	}
}
