import { Color, LinearSRGBColorSpace, PerspectiveCamera, Scene, WebGPURenderer } from "three/webgpu";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";
import { GLTFGaussianSplatLoaderExtension } from "three/addons/loaders/GLTFGaussianSplatLoaderExtension.js";
import { GaussianSplatPLYLoader } from "three/addons/loaders/GaussianSplatPLYLoader.js";
import { SPLATLoader } from "three/addons/loaders/SPLATLoader.js";
import { SPZLoader } from "three/addons/loaders/SPZLoader.js";
import { GaussianSplat } from "three/addons/objects/GaussianSplat.js";

const renderer = new WebGPURenderer({ forceWebGL: true });
renderer.outputColorSpace = LinearSRGBColorSpace; // colours are blended and shown as they are
await renderer.init();
renderer.setSize(SIZE, SIZE);
document.body.append(renderer.domElement);
const camera = new PerspectiveCamera(FOV_DEG, 1, 0.01, 100);
camera.position.set(...EYE);
camera.lookAt(0, 0, 0);
const scene = new Scene();
scene.background = new Color(0);
if (FILE.endsWith(".glb")) {
  const loader = new GLTFLoader().register((parser) => new GLTFGaussianSplatLoaderExtension(parser));
  scene.add((await loader.loadAsync(FILE)).scene);
} else {
  const loaders = { ply: GaussianSplatPLYLoader, splat: SPLATLoader, spz: SPZLoader };
  scene.add(new GaussianSplat(await new loaders[FILE.split(".").pop()]().loadAsync(FILE)));
}
let frames = 0;
renderer.setAnimationLoop(() => {
  renderer.render(scene, camera);
  window.frames_drawn = ++frames;
});
