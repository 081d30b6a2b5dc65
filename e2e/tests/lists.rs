//! Lists that come in parts show what the others show.

use gantry_cri_api::v1;
use gantry_e2e::{BUSYBOX, Rpc, Stage};
use serde_json::json;
use std::collections::BTreeMap;

#[test]
fn streamed_lists_and_filters_are_those_of_the_others() {
    let stage = Stage::new();
    let daemon = stage.daemon("d").start();
    let crictl = daemon.crictl();
    crictl.ok(&["pull", BUSYBOX]);
    let mut pods = Vec::new();
    for name in ["a", "b"] {
        let pod = stage.pod(name, json!({"labels": {"name": name}}));
        let pod_id = crictl.runp("", &pod);
        crictl.start(&pod_id, &stage.container("runs", "exec sleep 100000", json!({})), &pod);
        let labels = json!({"labels": {"which": name}});
        crictl.create(&pod_id, &stage.container("made", "exec sleep 100000", labels), &pod);
        pods.push(pod_id);
    }
    let rpc = Rpc::connect(&daemon.socket());
    let label = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);

    for filter in [
        None,
        Some(v1::PodSandboxFilter { label_selector: label("name", "b"), ..Default::default() }),
        Some(v1::PodSandboxFilter { id: pods[0][..10].to_owned(), ..Default::default() }),
        Some(v1::PodSandboxFilter { label_selector: label("name", "x"), ..Default::default() }),
    ] {
        let list = v1::ListPodSandboxRequest { filter: filter.clone() };
        let list = rpc.call(|mut c| async move { c.list_pod_sandbox(list).await });
        let mut listed = list.unwrap().into_inner().items;
        let stream = v1::StreamPodSandboxesRequest { filter };
        let stream = rpc.call(|mut c| async move { c.stream_pod_sandboxes(stream).await });
        let parts = rpc.collect(stream.unwrap());
        let streamed: Vec<_> = parts.into_iter().flat_map(|p| p.pod_sandboxes).collect();
        listed.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(streamed, listed);
    }
    let running = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
    for filter in [
        None,
        Some(v1::ContainerFilter { state: Some(running), ..Default::default() }),
        Some(v1::ContainerFilter { pod_sandbox_id: pods[1].clone(), ..Default::default() }),
        Some(v1::ContainerFilter { label_selector: label("which", "a"), ..Default::default() }),
    ] {
        let list = v1::ListContainersRequest { filter: filter.clone() };
        let list = rpc.call(|mut c| async move { c.list_containers(list).await });
        let mut listed = list.unwrap().into_inner().containers;
        let stream = v1::StreamContainersRequest { filter };
        let stream = rpc.call(|mut c| async move { c.stream_containers(stream).await });
        let parts = rpc.collect(stream.unwrap());
        let streamed: Vec<_> = parts.into_iter().flat_map(|p| p.containers).collect();
        listed.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(streamed, listed);
        assert!(!streamed.is_empty());
    }
    let filter = Some(v1::ContainerStatsFilter { pod_sandbox_id: pods[0].clone(), ..Default::default() });
    let stream = v1::StreamContainerStatsRequest { filter };
    let stream = rpc.call(|mut c| async move { c.stream_container_stats(stream).await });
    let stats: Vec<_> = rpc.collect(stream.unwrap()).into_iter().flat_map(|p| p.container_stats).collect();
    assert_eq!(stats.len(), 1, "those that run: {stats:?}");
    assert!(stats[0].cpu.is_some() && stats[0].memory.is_some());
    let stream = v1::StreamPodSandboxStatsRequest { filter: None };
    let stream = rpc.call(|mut c| async move { c.stream_pod_sandbox_stats(stream).await });
    let stats: Vec<_> = rpc.collect(stream.unwrap()).into_iter().flat_map(|p| p.pod_sandbox_stats).collect();
    assert_eq!(stats.len(), 2);
    assert_eq!(stats[0].linux.as_ref().unwrap().containers.len(), 1);
    let stream = v1::StreamPodSandboxMetricsRequest {};
    let stream = rpc.call(|mut c| async move { c.stream_pod_sandbox_metrics(stream).await });
    let parts = rpc.collect(stream.unwrap());
    let metrics: Vec<_> = parts.into_iter().flat_map(|p| p.pod_sandbox_metrics).collect();
    assert_eq!(metrics.len(), 2);

    let list = v1::ListImagesRequest::default();
    let list = rpc.call_images(|mut c| async move { c.list_images(list).await });
    for (image, found) in [("", 1), (BUSYBOX, 1), ("registry.example.com/none:1", 0)] {
        let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
        let stream = v1::StreamImagesRequest { filter: Some(v1::ImageFilter { image: Some(spec) }) };
        let stream = rpc.call_images(|mut c| async move { c.stream_images(stream).await });
        let images: Vec<_> = rpc.collect(stream.unwrap()).into_iter().flat_map(|p| p.images).collect();
        assert_eq!(images, list.as_ref().unwrap().get_ref().images[..found], "{image}");
    }
    crictl.remove_all();
    daemon.end();
    stage.end();
}
