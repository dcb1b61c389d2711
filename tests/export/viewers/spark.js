import * as THREE from "three";
import { SparkRenderer, SplatMesh } from "@sparkjsdev/spark";

const renderer = new THREE.WebGLRenderer({ preserveDrawingBuffer: true });
renderer.setSize(SIZE, SIZE);
document.body.append(renderer.domElement);
const camera = new THREE.PerspectiveCamera(FOV_DEG, 1, 0.01, 100);
camera.position.set(...EYE);
camera.lookAt(0, 0, 0);
const scene = new THREE.Scene();
scene.add(new SparkRenderer({ renderer }));
const mesh = new SplatMesh({ url: FILE });
scene.add(mesh);
await mesh.initialized;
let frames = 0;
renderer.setAnimationLoop(() => {
  renderer.render(scene, camera);
  window.frames_drawn = ++frames;
});
