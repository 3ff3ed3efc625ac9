package ort

import (
	"runtime"

	"golang.org/x/sys/cpu"

	"github.com/likeness-id/likeness/pkg/face"
)

// checkCPU refuses a processor on which the library may end the process with an
// illegal instruction instead of an error. Its requirements were measured; see
// docs/adr/0002.
func checkCPU() error {
	need, has := "", true
	switch runtime.GOARCH {
	case "amd64":
		need, has = "SSE4.1", cpu.X86.HasSSE41
	case "arm64":
		need, has = "Advanced SIMD (NEON)", cpu.ARM64.HasASIMD
	}
	if !has {
		return face.Errorf(face.Unavailable, "ort.Open",
			"ONNX Runtime needs a processor with %s, which this one does not report; in a virtual machine, give it the host's processor model", need)
	}
	return nil
}
