// Validates manifests as the API server of Kubernetes does: strict decoding, defaults, validation. With
// -restricted it also says of each pod whether pod security admission lets it through the restricted profile.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/apps"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/batch"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	batchvalidation "k8s.io/kubernetes/pkg/apis/batch/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/apis/networking"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	networkingvalidation "k8s.io/kubernetes/pkg/apis/networking/validation"
	"k8s.io/kubernetes/pkg/capabilities"
	podsecurity "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

var decoder = serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict).UniversalDeserializer()

func main() {
	restricted := flag.Bool("restricted", false, "say which pods satisfy the restricted profile")
	flag.Parse()
	// Privileged containers are the cluster's choice; here they are allowed.
	capabilities.Setup(true, 0)
	objects, faults := 0, 0
	for _, path := range flag.Args() {
		text, err := os.ReadFile(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
		for {
			document, err := reader.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				fmt.Printf("%s: %v\n", path, err)
				faults++
				break
			}
			if !bytes.Contains(document, []byte("apiVersion:")) {
				continue
			}
			objects++
			name, list, pod := check(document)
			for _, err := range list {
				fmt.Printf("%s: %s: %v\n", path, name, err)
				faults++
			}
			if *restricted && pod != nil {
				fmt.Printf("%s: %s: %s\n", path, name, profile(pod))
			}
		}
	}
	fmt.Printf("%d objects, %d faults\n", objects, faults)
	if faults > 0 {
		os.Exit(1)
	}
}

// check returns what an object is called, its faults, and the template of its pods if it has one.
func check(document []byte) (string, []error, *corev1.PodTemplateSpec) {
	object, kind, err := decoder.Decode(document, nil, nil)
	if err != nil {
		return "object", []error{err}, nil
	}
	meta := object.(metav1.Object)
	meta.SetNamespace("default")
	name := kind.Kind + " " + meta.GetName()
	legacyscheme.Scheme.Default(object)
	internal := schema.GroupVersion{Group: kind.Group, Version: runtime.APIVersionInternal}
	converted, err := legacyscheme.Scheme.ConvertToVersion(object, internal)
	if err != nil {
		return name, []error{err}, nil
	}
	var list field.ErrorList
	switch o := converted.(type) {
	case *core.ConfigMap:
		list = corevalidation.ValidateConfigMap(o)
	case *core.Secret:
		list = corevalidation.ValidateSecret(o)
	case *core.PersistentVolumeClaim:
		list = corevalidation.ValidatePersistentVolumeClaim(o, corevalidation.PersistentVolumeClaimSpecValidationOptions{})
	case *core.Service:
		// The server fills the list in before it validates.
		if o.Spec.ClusterIP != "" && len(o.Spec.ClusterIPs) == 0 {
			o.Spec.ClusterIPs = []string{o.Spec.ClusterIP}
		}
		list = corevalidation.ValidateServiceCreate(o)
	case *networking.NetworkPolicy:
		list = networkingvalidation.ValidateNetworkPolicy(o, networkingvalidation.NetworkPolicyValidationOptions{})
	case *apps.Deployment:
		list = appsvalidation.ValidateDeployment(o, corevalidation.PodValidationOptions{})
	case *apps.StatefulSet:
		list = appsvalidation.ValidateStatefulSet(o, corevalidation.PodValidationOptions{})
	case *batch.Job:
		// The server makes the selector of a job that has none.
		manual := true
		labels := map[string]string{"batch.kubernetes.io/controller-uid": "1"}
		o.Spec.ManualSelector = &manual
		o.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
		if o.Spec.Template.Labels == nil {
			o.Spec.Template.Labels = map[string]string{}
		}
		for key, value := range labels {
			o.Spec.Template.Labels[key] = value
		}
		list = batchvalidation.ValidateJob(o, batchvalidation.JobValidationOptions{})
	default:
		return name, []error{fmt.Errorf("no validation for %T", converted)}, nil
	}
	faults := make([]error, 0, len(list))
	for _, err := range list {
		faults = append(faults, err)
	}
	switch o := object.(type) {
	case *appsv1.Deployment:
		return name, faults, &o.Spec.Template
	case *appsv1.StatefulSet:
		return name, faults, &o.Spec.Template
	case *batchv1.Job:
		return name, faults, &o.Spec.Template
	}
	return name, faults, nil
}

// profile says whether the restricted profile lets a pod through, and why not.
func profile(pod *corev1.PodTemplateSpec) string {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return err.Error()
	}
	level := podsecurity.LevelVersion{Level: podsecurity.LevelRestricted, Version: podsecurity.LatestVersion()}
	result := policy.AggregateCheckResults(evaluator.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec))
	if result.Allowed {
		return "restricted"
	}
	return "not restricted: " + result.ForbiddenDetail()
}
