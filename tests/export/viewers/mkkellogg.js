import * as THREE from "three";
import { SceneRevealMode, Viewer } from "@mkkellogg/gaussian-splats-3d";

const camera = new THREE.PerspectiveCamera(FOV_DEG, 1, 0.1, 100);
camera.position.set(...EYE);
camera.lookAt(0, 0, 0);
const viewer = new Viewer({
  camera,
  useBuiltInControls: false,
  sharedMemoryForWorkers: false,
  gpuAcceleratedSort: false,
  antialiased: ANTIALIASED,
  sphericalHarmonicsDegree: 2,
  sceneRevealMode: SceneRevealMode.Instant, // else it fades in, slowly on a busy machine
});
await viewer.addSplatScene(FILE, { showLoadingUI: false });
viewer.start();
let frames = 0;
const count = () => {
  window.frames_drawn = ++frames;
  requestAnimationFrame(count);
};
count();
